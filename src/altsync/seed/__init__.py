"""From JSONL files to PostgreSQL: read, check, upsert what changed, enqueue."""
