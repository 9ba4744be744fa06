"""The servers of the embedded stack, one file each; tests start single ones with these."""

from altsync.local.services.base import Service, ServiceStatus
from altsync.local.services.broker import Broker, start_redis
from altsync.local.services.graph import Graph, start_graph
from altsync.local.services.postgres import Postgres, start_postgres
from altsync.local.services.vectors import Vectors, start_vectors

__all__ = [
    "Broker",
    "Graph",
    "Postgres",
    "Service",
    "ServiceStatus",
    "Vectors",
    "start_graph",
    "start_postgres",
    "start_redis",
    "start_vectors",
]
