"""SQL on the outbox: enqueue, claim, settle, and maintenance.

Each sink and entity have at most one live row (pending or in progress). It holds the wanted
version, the lease and the attempts; finished rows are the history. Its row lock excludes other
workers, so a claim reads no other row.

Every writer of operations locks the entities first (tables in the order of ``EntityType``, rows by
id), then the operations. Only ``claim`` locks operations without their entities; it never waits.

All clocks are the database's. Functions take a connection and never commit.
"""
