"""The statements of pgvector's tables."""

from __future__ import annotations

#: For one transaction: a transaction pooler keeps no parameter of a session.
LIMIT_TRANSACTION = """
SELECT set_config('statement_timeout', %(timeout)s, true),
       set_config('idle_in_transaction_session_timeout', %(timeout)s, true)
"""

FIND_EXTENSION = """
SELECT quote_ident(n.nspname), e.extversion
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'
"""

EXISTING = """
SELECT name FROM unnest(%(names)s::text[]) name WHERE to_regclass(quote_ident(name)) IS NOT NULL
"""

DESCRIBE = """
SELECT c.relname, a.attname, t.typname, a.atttypmod
FROM unnest(%(names)s::text[]) wanted(name)
JOIN pg_class c ON c.oid = to_regclass(quote_ident(wanted.name))
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid
"""

CREATE_TABLE = """
CREATE TABLE {table} (
  key text COLLATE "C" PRIMARY KEY,
  namespace text NOT NULL,
  version bigint NOT NULL,
  model text,
  content_hash text,
  metadata jsonb,
  embedding {type}({dimensions}),
  updated_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz,
  CHECK ((deleted_at IS NULL) = (embedding IS NOT NULL))) WITH (fillfactor = 80)
"""

#: A tombstone has no vector, and HNSW leaves rows without one out.
CREATE_INDEXES = {
    "embedding": "USING hnsw (embedding {ops})",
    "namespace": "(namespace) WHERE deleted_at IS NULL",
    "deleted": "(deleted_at) WHERE deleted_at IS NOT NULL",
}

CREATE_OWNER = """
CREATE TABLE {owner} (
  single boolean PRIMARY KEY DEFAULT true CHECK (single),
  id text NOT NULL, since text NOT NULL, database text NOT NULL, system text NOT NULL)
"""

MARK_OWNER = """
INSERT INTO {owner} (id, since, database, system)
VALUES (%(id)s, %(since)s, %(database)s, %(system)s) ON CONFLICT (single) {conflict}
"""

REPLACE_OWNER = """
DO UPDATE SET id = excluded.id, since = excluded.since, database = excluded.database,
  system = excluded.system
"""

# A vector that stays as it is keeps its place: PostgreSQL then updates the row without a new entry
# in the HNSW graph (a heap-only tuple).
UPSERT = """
INSERT INTO {table} AS t (key, namespace, version, model, content_hash, metadata, embedding)
SELECT g.key, g.namespace, g.version, %(model)s, g.content_hash, g.metadata::jsonb,
       g.embedding::{type}({dimensions})
FROM unnest(%(keys)s::text[], %(namespaces)s::text[], %(versions)s::bigint[], %(hashes)s::text[],
            %(metadata)s::text[], %(embeddings)s::text[])
  AS g(key, namespace, version, content_hash, metadata, embedding)
ORDER BY g.key
ON CONFLICT (key) DO UPDATE SET
  namespace = excluded.namespace, version = excluded.version, model = excluded.model,
  content_hash = excluded.content_hash, metadata = excluded.metadata,
  embedding = CASE WHEN t.embedding OPERATOR({schema}.=) excluded.embedding
                   THEN t.embedding ELSE excluded.embedding END,
  updated_at = now(), deleted_at = NULL
WHERE t.version < excluded.version OR (t.version = excluded.version AND t.deleted_at IS NULL)
RETURNING t.key
"""

DELETE = """
INSERT INTO {table} AS t (key, namespace, version, deleted_at)
SELECT g.key, '', g.version, now() FROM unnest(%(keys)s::text[], %(versions)s::bigint[])
  AS g(key, version)
ORDER BY g.key
ON CONFLICT (key) DO UPDATE SET
  namespace = '', version = excluded.version, model = NULL, content_hash = NULL, metadata = NULL,
  embedding = NULL, updated_at = now(), deleted_at = now()
WHERE t.version <= excluded.version
RETURNING t.key
"""

VERSIONS_OF = """
SELECT key, version FROM {table} WHERE key = ANY(%(keys)s) AND (deleted_at IS NOT NULL) = %(gone)s
"""

#: Neither a row nor a tombstone of version 0 refuses a write.
RESET_VERSIONS = (
    "UPDATE {table} SET version = 0 WHERE key = ANY(%s) AND (version > %s OR version < 0)"
)

FORGET_TOMBSTONES = "DELETE FROM {table} WHERE deleted_at < now() - make_interval(hours => %s)"

FORGET_DELETIONS = "DELETE FROM {table} WHERE key = ANY(%s) AND deleted_at IS NOT NULL"

COUNT = "SELECT count(*) FROM {table} WHERE deleted_at IS NULL"

SAMPLE = "SELECT key FROM {table} WHERE deleted_at IS NULL ORDER BY key LIMIT %s"

READ_OWNER = "SELECT id, since, database, system FROM {owner}"

#: 32 bits of a hash of a row. SHA-256 is the same in every release and build of PostgreSQL.
ROW_DIGEST = (
    "('x' || left(encode(sha256(convert_to(concat_ws(chr(31), {facts}), 'UTF8')), 'hex'), 8))"
    "::bit(32)::bigint"
)

DIGEST = """
SELECT version %% %(modulus)s, count(*), sum({digest})::bigint
FROM {table} WHERE deleted_at IS NULL GROUP BY 1
"""

LIST = """
SELECT key, namespace, version, model, content_hash, metadata{embedding} FROM {table}
WHERE deleted_at IS NULL AND key > %(after)s AND ({condition}) ORDER BY key LIMIT %(limit)s
"""

IN_BUCKETS = "%(buckets)s::bigint[] IS NULL OR version %% %(modulus)s = ANY(%(buckets)s)"

BY_KEYS = "key = ANY(%(keys)s)"

NEAREST = """
SELECT key, 1 - (embedding OPERATOR({schema}.<=>) %(vector)s::{type}({dimensions})) AS score{marks}
FROM {table} WHERE deleted_at IS NULL AND namespace = %(space)s AND {where}
ORDER BY embedding OPERATOR({schema}.<=>) %(vector)s::{type}({dimensions}) LIMIT %(limit)s
"""

TUNE_SEARCH = """
SELECT set_config('hnsw.iterative_scan', 'strict_order', true),
       set_config('hnsw.ef_search', %(ef_search)s, true),
       set_config('hnsw.max_scan_tuples', %(scanned)s, true)
"""

#: Bitmap scans stay: they read the namespace by its index.
WITHOUT_GRAPH = "SELECT set_config('enable_indexscan', 'off', true)"
