"""The receipt of an erasure: a JSON document with a hash over its content."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from altsync.erase.sql import Target
from altsync.errors import AltsyncError

#: The form of the document.
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Store:
    """The records that a store holds of an entity. ``not_read``: why it was not read."""

    name: str
    found: tuple[str, ...] = ()
    not_read: str | None = None

    @property
    def ok(self) -> bool:
        """Return whether the store was read, and nothing was found."""
        return not self.found and self.not_read is None


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt. ``body`` has everything but the hash."""

    body: dict[str, Any]
    hash: str

    @property
    def target(self) -> Target:
        """Return the entity that it is about. Raises ``AltsyncError`` for an unknown type."""
        try:
            return Target.from_json(self.body["target"])
        except LookupError as error:
            reason = f"the receipt names a type that the catalogue lacks: {error}"
            raise AltsyncError(reason) from None

    def as_json(self) -> dict[str, Any]:
        """Return the document."""
        return {**self.body, "hash": self.hash}


def make(
    *,
    installation: str,
    erasure: int,
    target: Target,
    reason: str | None,
    requested_by: str,
    requested_at: datetime,
    read_at: datetime,
    stores: Sequence[Store],
) -> Receipt:
    """Return the receipt of an erasure."""
    body = {
        "receipt": "altsync erasure",
        "format": FORMAT,
        "installation": installation,
        "erasure": erasure,
        "target": target.as_json(),
        "reason": reason,
        "requested_by": requested_by,
        "requested_at": requested_at.isoformat(),
        "read_at": read_at.isoformat(),
        "stores": [asdict(one) | {"found": list(one.found)} for one in stores],
    }
    return Receipt(body, hash_of(body))


def hash_of(body: dict[str, Any]) -> str:
    """Return the SHA-256 of a document: JSON with sorted keys, no spaces, in UTF-8."""
    form = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256(form.encode()).hexdigest()


def read(file: Path) -> Receipt:
    """Read a receipt. Raises ``AltsyncError`` when it is none, or was changed."""
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
        given = body.pop("hash")
        if body["receipt"] != "altsync erasure" or body["format"] != FORMAT:
            raise KeyError("receipt")
    except OSError as error:
        raise AltsyncError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise AltsyncError(f"{file}: no receipt of altsync erase") from None
    if given != hash_of(body):
        raise AltsyncError(f"{file}: the receipt was changed: its hash does not fit its content")
    return Receipt(body, given)
