"""Load JSONL files into PostgreSQL: read, check, upsert changes, enqueue."""
