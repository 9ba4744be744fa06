"""SQL on the outbox: enqueue, claim, settle, and what keeps it healthy.

The one rule: at most one LIVE row (pending or in progress) per sink and entity. The live row is
that sink's state (wanted version, lease, attempts); finished rows are the audit trail. Its row
lock is the exclusion, so claims need no sweep and no look at other rows.

Lock order of every writer of operations: entities first (tables in the order of
``EntityType``, rows by id), then operations. ``claim`` alone takes operations without their
entities, and never waits.

All clocks are the database's. Functions take a connection and never commit.
"""
