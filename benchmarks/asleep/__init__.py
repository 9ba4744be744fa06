"""altsync with remote calls that are sleeps: real PostgreSQL, relay, Celery workers, and sinks.

Nothing of altsync's own work is left out: texts are hashed, answers decoded and stored, nodes
projected, vectors printed and batches cut. Only drivers and servers are not there.
"""
