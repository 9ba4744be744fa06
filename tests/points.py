"""The named points at which tests stop, kill or hold up delivery and seeding.

``tests/unit/test_points.py`` holds that the code has these and no others.
"""

from __future__ import annotations

#: Of one batch that is delivered, in their order.
DELIVERY = (
    "admitted",
    "claimed",
    "read",
    "namespaces_recorded",
    "cost_reserved",
    "called",
    "written",
    "settling",
    "settled",
    "breaker_updated",
)

#: Points at which a worker holds a connection of its pool, or even a transaction.
CONNECTED = ("admitted", "settling")

#: Points at which the batch is settled: no worker claims it again.
DELIVERED = ("settled", "breaker_updated")

#: Of a seeding run. Points of a part, a batch and a pruned page come again with each of them.
SEEDING = (
    "begun",
    "found",
    "part begun",
    "batch begun",
    "seen",
    "keys requested",
    "copied",
    "ends locked",
    "related",
    "written",
    "committing",
    "committed",
    "reported",
    "loaded",
    "checked",
    "page begun",
    "relationships deleted",
    "page committing",
    "page committed",
    "pruned",
)

#: Of an erasure.
ERASING = ("requested", "deleted", "purging", "purged", "cleared", "completed")

#: Points of both that are passed only where a key is renamed; tests of renames kill there.
OF_RENAMES = {"delivery": ("leaving",), "seed": ("renamed", "followed"), "erase": ()}
