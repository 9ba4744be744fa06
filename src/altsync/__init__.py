"""altsync keeps Neo4j and Pinecone in step with PostgreSQL through a transactional outbox.

A catalogue is declared with the names that this module exports; they are imported when they are
first asked for, so that commands start fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from altsync.catalogue.catalogue import Catalogue
    from altsync.catalogue.entity import Attachment, Entity, Name, Slug, Tag, Text
    from altsync.catalogue.fields import CatalogueError
    from altsync.catalogue.markers import (
        AttachedTo,
        BelongsTo,
        Embed,
        Filter,
        Key,
        Local,
        Names,
        Node,
        References,
        Relationships,
        Seeds,
        Similar,
        Vectors,
    )
    from altsync.errors import SaveError, WaitFailed, WaitTimeout
    from altsync.saving import delete, save
    from altsync.waiting import wait

__version__ = "0.1.0"

_EXPORTED = {
    "altsync.catalogue.fields": ("CatalogueError",),
    "altsync.catalogue.catalogue": ("Catalogue",),
    "altsync.catalogue.entity": ("Attachment", "Entity", "Name", "Slug", "Tag", "Text"),
    "altsync.catalogue.markers": (
        "AttachedTo",
        "BelongsTo",
        "Embed",
        "Filter",
        "Key",
        "Local",
        "Names",
        "Node",
        "References",
        "Relationships",
        "Seeds",
        "Similar",
        "Vectors",
    ),
    "altsync.errors": ("SaveError", "WaitFailed", "WaitTimeout"),
    "altsync.saving": ("delete", "save"),
    "altsync.waiting": ("wait",),
}

__all__ = [
    "AttachedTo",
    "Attachment",
    "BelongsTo",
    "Catalogue",
    "CatalogueError",
    "Embed",
    "Entity",
    "Filter",
    "Key",
    "Local",
    "Name",
    "Names",
    "Node",
    "References",
    "Relationships",
    "SaveError",
    "Seeds",
    "Similar",
    "Slug",
    "Tag",
    "Text",
    "Vectors",
    "WaitFailed",
    "WaitTimeout",
    "delete",
    "save",
    "wait",
]


def __getattr__(name: str) -> Any:
    for module, names in _EXPORTED.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'altsync' has no attribute {name!r}")
