"""The first schema: entities, the outbox, and what all processes share."""

from __future__ import annotations

import time

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

#: Children first, so that each can go without CASCADE.
TABLES = (
    "verify_run",
    "delivery_batch",
    "tag_registry",
    "embedding",
    "sink_state",
    "sync_operation",
    "contract",
    "document",
    "league_relationship",
    "few_shot_example",
    "league",
    "sport_archetype",
)

DDL = (
    """
    CREATE TABLE sport_archetype (
        id UUID NOT NULL,
        seed_id TEXT NOT NULL,
        attributes JSONB DEFAULT '{}'::jsonb NOT NULL,
        version BIGINT DEFAULT nextval('entity_version') NOT NULL,
        edges_version BIGINT DEFAULT 0 NOT NULL,
        graph_version BIGINT GENERATED ALWAYS AS (GREATEST(version, edges_version)) STORED NOT NULL,
        content_hash TEXT NOT NULL,
        text_hash TEXT NOT NULL,
        line_hash TEXT,
        embedding_model TEXT,
        embedding_text_hash TEXT,
        embedding_updated_at TIMESTAMP WITH TIME ZONE,
        embedding_sync_status TEXT DEFAULT 'pending' NOT NULL,
        neo4j_node_id TEXT,
        neo4j_synced_at TIMESTAMP WITH TIME ZONE,
        neo4j_sync_status TEXT DEFAULT 'pending' NOT NULL,
        pinecone_id TEXT,
        pinecone_namespace TEXT,
        pinecone_synced_at TIMESTAMP WITH TIME ZONE,
        pinecone_sync_status TEXT DEFAULT 'pending' NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        deleted_at TIMESTAMP WITH TIME ZONE,
        archetype_name TEXT NOT NULL,
        display_name TEXT NOT NULL,
        code_pattern TEXT NOT NULL,
        description TEXT,
        characteristics JSONB DEFAULT '{}'::jsonb NOT NULL,
        PRIMARY KEY (id),
        UNIQUE (seed_id),
        UNIQUE (archetype_name)
    ) WITH (fillfactor = 50)
    """,
    """
    CREATE TABLE league (
        id UUID NOT NULL,
        seed_id TEXT NOT NULL,
        attributes JSONB DEFAULT '{}'::jsonb NOT NULL,
        version BIGINT DEFAULT nextval('entity_version') NOT NULL,
        edges_version BIGINT DEFAULT 0 NOT NULL,
        graph_version BIGINT GENERATED ALWAYS AS (GREATEST(version, edges_version)) STORED NOT NULL,
        content_hash TEXT NOT NULL,
        text_hash TEXT NOT NULL,
        line_hash TEXT,
        embedding_model TEXT,
        embedding_text_hash TEXT,
        embedding_updated_at TIMESTAMP WITH TIME ZONE,
        embedding_sync_status TEXT DEFAULT 'pending' NOT NULL,
        neo4j_node_id TEXT,
        neo4j_synced_at TIMESTAMP WITH TIME ZONE,
        neo4j_sync_status TEXT DEFAULT 'pending' NOT NULL,
        pinecone_id TEXT,
        pinecone_namespace TEXT,
        pinecone_synced_at TIMESTAMP WITH TIME ZONE,
        pinecone_sync_status TEXT DEFAULT 'pending' NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        deleted_at TIMESTAMP WITH TIME ZONE,
        league_tag TEXT NOT NULL,
        league_name TEXT NOT NULL,
        sport_name TEXT NOT NULL,
        sport_archetype TEXT NOT NULL,
        location TEXT,
        tier TEXT,
        status TEXT DEFAULT 'active' NOT NULL,
        description TEXT,
        neighbours_of TEXT,
        PRIMARY KEY (id),
        UNIQUE (seed_id),
        UNIQUE (league_tag)
    ) WITH (fillfactor = 50)
    """,
    "CREATE INDEX league_archetype ON league (sport_archetype)",
    """
    CREATE TABLE few_shot_example (
        id UUID NOT NULL,
        seed_id TEXT NOT NULL,
        attributes JSONB DEFAULT '{}'::jsonb NOT NULL,
        version BIGINT DEFAULT nextval('entity_version') NOT NULL,
        edges_version BIGINT DEFAULT 0 NOT NULL,
        graph_version BIGINT GENERATED ALWAYS AS (GREATEST(version, edges_version)) STORED NOT NULL,
        content_hash TEXT NOT NULL,
        text_hash TEXT NOT NULL,
        line_hash TEXT,
        embedding_model TEXT,
        embedding_text_hash TEXT,
        embedding_updated_at TIMESTAMP WITH TIME ZONE,
        embedding_sync_status TEXT DEFAULT 'pending' NOT NULL,
        neo4j_node_id TEXT,
        neo4j_synced_at TIMESTAMP WITH TIME ZONE,
        neo4j_sync_status TEXT DEFAULT 'pending' NOT NULL,
        pinecone_id TEXT,
        pinecone_namespace TEXT,
        pinecone_synced_at TIMESTAMP WITH TIME ZONE,
        pinecone_sync_status TEXT DEFAULT 'pending' NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        deleted_at TIMESTAMP WITH TIME ZONE,
        example_id TEXT NOT NULL,
        category TEXT NOT NULL,
        input_text TEXT NOT NULL,
        output_text TEXT NOT NULL,
        sport_archetype TEXT,
        tags TEXT[] DEFAULT '{}'::text[] NOT NULL,
        PRIMARY KEY (id),
        UNIQUE (seed_id),
        UNIQUE (example_id)
    ) WITH (fillfactor = 50)
    """,
    "CREATE INDEX few_shot_example_category ON few_shot_example (category)",
    """
    CREATE TABLE league_relationship (
        id UUID NOT NULL,
        seed_id TEXT,
        source_league_id UUID NOT NULL,
        target_league_id UUID NOT NULL,
        relationship_type TEXT NOT NULL,
        strength_score NUMERIC(6, 5),
        neo4j_rel_id TEXT,
        attributes JSONB DEFAULT '{}'::jsonb NOT NULL,
        content_hash TEXT,
        model TEXT,
        source_version BIGINT,
        target_version BIGINT,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        PRIMARY KEY (id),
        UNIQUE (seed_id),
        UNIQUE (source_league_id, target_league_id, relationship_type) DEFERRABLE,
        CONSTRAINT computed_or_seeded CHECK ((relationship_type = 'SIMILAR_TO') = (seed_id IS NULL)),
        CONSTRAINT no_loop CHECK (source_league_id <> target_league_id),
        CONSTRAINT league_relationship_type CHECK (relationship_type IN ('SIMILAR_TO', 'COMPETES_WITH', 'SAME_ARCHETYPE')),
        FOREIGN KEY(source_league_id) REFERENCES league (id) ON DELETE CASCADE,
        FOREIGN KEY(target_league_id) REFERENCES league (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX league_relationship_target ON league_relationship (target_league_id)",
    """
    CREATE TABLE document (
        id UUID NOT NULL,
        seed_id TEXT NOT NULL,
        league_id UUID NOT NULL,
        title TEXT NOT NULL,
        attributes JSONB DEFAULT '{}'::jsonb NOT NULL,
        content_hash TEXT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        kind TEXT,
        body TEXT,
        PRIMARY KEY (id),
        UNIQUE (seed_id),
        FOREIGN KEY(league_id) REFERENCES league (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX ix_document_league_id ON document (league_id)",
    """
    CREATE TABLE contract (
        id UUID NOT NULL,
        seed_id TEXT NOT NULL,
        league_id UUID NOT NULL,
        title TEXT NOT NULL,
        attributes JSONB DEFAULT '{}'::jsonb NOT NULL,
        content_hash TEXT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        counterparty TEXT,
        contract_type TEXT,
        status TEXT DEFAULT 'active' NOT NULL,
        start_date DATE,
        end_date DATE,
        PRIMARY KEY (id),
        UNIQUE (seed_id),
        FOREIGN KEY(league_id) REFERENCES league (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX ix_contract_league_id ON contract (league_id)",
    """
    CREATE TABLE sync_operation (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        entity_type TEXT NOT NULL,
        entity_id UUID NOT NULL,
        entity_key TEXT NOT NULL,
        sink TEXT NOT NULL,
        action TEXT NOT NULL,
        version BIGINT NOT NULL,
        origin TEXT NOT NULL,
        priority SMALLINT DEFAULT 0 NOT NULL,
        status TEXT DEFAULT 'pending' NOT NULL,
        attempts SMALLINT DEFAULT 0 NOT NULL,
        suspicion SMALLINT DEFAULT 0 NOT NULL,
        suspected_at TIMESTAMP WITH TIME ZONE,
        passed_by SMALLINT DEFAULT 0 NOT NULL,
        available_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        lease_token UUID,
        leased_by TEXT,
        asked_again BOOLEAN DEFAULT false NOT NULL,
        unsure BOOLEAN DEFAULT false NOT NULL,
        places TEXT[] DEFAULT '{}'::text[] NOT NULL,
        last_error TEXT,
        error_kind TEXT,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        finished_at TIMESTAMP WITH TIME ZONE,
        discarded_at TIMESTAMP WITH TIME ZONE,
        discarded_by TEXT,
        discarded_why TEXT,
        PRIMARY KEY (id),
        CONSTRAINT action_known CHECK (action IN ('upsert', 'delete')),
        CONSTRAINT version_positive CHECK (version > 0),
        CONSTRAINT attempts_not_negative CHECK (attempts >= 0),
        CONSTRAINT origin_known CHECK (origin IN ('seed', 'update', 'embedding', 'retry', 'reconcile', 'backfill', 'similarity', 'model', 'echo')),
        CONSTRAINT status_known CHECK (status IN ('pending', 'in_progress', 'synced', 'dead', 'superseded', 'discarded')),
        CONSTRAINT error_kind_known CHECK (error_kind IN ('item', 'sink', 'unknown', 'lost')),
        CONSTRAINT lease_iff_in_progress CHECK ((status = 'in_progress') = (lease_token IS NOT NULL)),
        CONSTRAINT live_iff_unfinished CHECK ((finished_at IS NULL) = (status IN ('pending', 'in_progress'))),
        CONSTRAINT dead_has_reason CHECK (status <> 'dead' OR (last_error IS NOT NULL AND error_kind IS NOT NULL)),
        CONSTRAINT discarded_says_why CHECK (CASE WHEN status = 'discarded' THEN num_nulls(discarded_at, discarded_by, discarded_why) = 0 ELSE num_nonnulls(discarded_at, discarded_by, discarded_why) = 0 END)
    ) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 10000)
    """,
    """
    CREATE INDEX sync_operation_dead
    ON sync_operation (entity_id, sink)
    WHERE status IN ('dead', 'discarded')
    """,
    """
    CREATE INDEX sync_operation_due
    ON sync_operation (sink, priority, available_at)
    WHERE finished_at IS NULL
    """,
    """
    CREATE INDEX sync_operation_history
    ON sync_operation (entity_id, id)
    WHERE finished_at IS NOT NULL
    """,
    """
    CREATE UNIQUE INDEX sync_operation_live
    ON sync_operation (entity_id, sink)
    WHERE finished_at IS NULL
    """,
    """
    CREATE TABLE sink_state (
        sink TEXT NOT NULL,
        state TEXT DEFAULT 'closed' NOT NULL,
        since TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        reason TEXT,
        open_until TIMESTAMP WITH TIME ZONE,
        probe_token UUID,
        probe_until TIMESTAMP WITH TIME ZONE,
        consecutive_errors INTEGER DEFAULT 0 NOT NULL,
        last_claim_at TIMESTAMP WITH TIME ZONE,
        last_wake_at TIMESTAMP WITH TIME ZONE,
        last_answer_at TIMESTAMP WITH TIME ZONE,
        unanswered_wakes INTEGER DEFAULT 0 NOT NULL,
        requests_until TIMESTAMP WITH TIME ZONE,
        tokens_until TIMESTAMP WITH TIME ZONE,
        config JSONB DEFAULT '{}'::jsonb NOT NULL,
        PRIMARY KEY (sink),
        CONSTRAINT state_known CHECK (state IN ('closed', 'open', 'probing', 'paused', 'disabled'))
    )
    """,
    """
    CREATE TABLE embedding (
        model TEXT NOT NULL,
        dimensions INTEGER NOT NULL,
        text_hash TEXT NOT NULL,
        vector BYTEA NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        PRIMARY KEY (model, dimensions, text_hash)
    )
    """,
    "ALTER TABLE embedding ALTER COLUMN vector SET STORAGE EXTERNAL",
    """
    CREATE TABLE tag_registry (
        seed_id TEXT NOT NULL,
        entity_type TEXT NOT NULL,
        tag TEXT NOT NULL,
        PRIMARY KEY (seed_id, entity_type),
        UNIQUE (tag, entity_type)
    )
    """,
    """
    CREATE TABLE delivery_batch (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        sink TEXT NOT NULL,
        worker TEXT NOT NULL,
        claimed INTEGER NOT NULL,
        synced INTEGER NOT NULL,
        superseded INTEGER NOT NULL,
        retried INTEGER NOT NULL,
        dead INTEGER NOT NULL,
        lost INTEGER NOT NULL,
        remote_calls INTEGER NOT NULL,
        tokens INTEGER NOT NULL,
        seconds FLOAT NOT NULL,
        finished_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        PRIMARY KEY (id)
    )
    """,
    "CREATE INDEX delivery_batch_finished ON delivery_batch (finished_at)",
    """
    CREATE TABLE verify_run (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        seconds FLOAT NOT NULL,
        consistent BOOLEAN NOT NULL,
        result JSONB DEFAULT '{}'::jsonb NOT NULL,
        finished_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        PRIMARY KEY (id)
    )
    """,
)

#: Tables whose rows have a vector.
ENTITIES = ("sport_archetype", "league", "few_shot_example")

#: ``l.embedding_vector`` for people who ask for a league ``l``: a function of the row reads like a
#: column of it.
VECTOR_OF = """
    CREATE FUNCTION embedding_vector({table}) RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (SELECT e.vector FROM embedding e
            WHERE e.model = $1.embedding_model AND e.text_hash = $1.embedding_text_hash
              AND e.dimensions = (SELECT (config ->> 'dimensions')::int FROM sink_state
                                  WHERE sink = 'embedding'))
"""


def upgrade() -> None:
    """Create everything. Versions start above those of any earlier life of this database."""
    # Microseconds since 1970: never reused over a restore, and exact as a float64 until 2255,
    # which is how a vector index keeps numbers.
    start = time.time_ns() // 1000
    op.execute(f"CREATE SEQUENCE entity_version AS bigint START WITH {start} CACHE 1 NO CYCLE")
    for statement in (*DDL, *(VECTOR_OF.format(table=table) for table in ENTITIES)):
        op.execute(statement)


def downgrade() -> None:
    """Drop everything, with all data."""
    for table in ENTITIES:
        op.execute(f"DROP FUNCTION embedding_vector({table})")
    for table in TABLES:
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP SEQUENCE entity_version")
