"""Which tag a seed gets. A tag, once given, stays with its seed id for ever."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from altsync.projection import digest

#: Characters of a tag made from a name.
SLUG_LENGTH = 80

#: Characters of the hash that tells namesakes apart when their places do not.
SUFFIX_LENGTH = 8

_APOSTROPHES = re.compile("['’‘ʼ]")
_NOT_WORD = re.compile(r"[^a-z0-9]+")

#: Letters that Unicode does not decompose to ASCII, as they are usually written.
_LETTERS = str.maketrans(
    {"ß": "ss", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "ł": "l", "æ": "ae", "œ": "oe", "ı": "i"}
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a seed asks for: a tag of its own, or one made from its name and place."""

    seed_id: str
    given: str | None
    name: str
    location: str | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a seed cannot have the tag that it gives itself."""

    seed_id: str
    reason: str


def slug(text: str) -> str:
    """The text in lower-case ASCII words joined by underscores; empty when nothing is left."""
    ascii_only = unicodedata.normalize("NFKD", text.lower().translate(_LETTERS))
    ascii_only = _APOSTROPHES.sub("", ascii_only)
    plain = ascii_only.encode("ascii", "ignore").decode()
    return _NOT_WORD.sub("_", plain).strip("_")[:SLUG_LENGTH].strip("_")


def candidates(wish: Wish) -> list[str]:
    """The tags that a seed may have, the best first. The last one is its own alone."""
    if wish.given:
        return [wish.given]
    suffix = digest(wish.seed_id.encode())[:SUFFIX_LENGTH]
    name = slug(wish.name)
    place = slug(wish.location or "")
    if not name:
        return [f"seed_{suffix}"]
    return [name, *([f"{name}_{place}"] if place else []), f"{name}_{suffix}"]


def assign(
    wishes: Sequence[Wish], known: Mapping[str, str], holders: Mapping[str, str]
) -> tuple[dict[str, str], list[Refusal]]:
    """Give every wish its tag: the one it has already, or the first candidate that is free.

    ``known`` holds tags by seed id, ``holders`` seed ids by the tags that are taken. Returns
    the tags by seed id, and who was refused.
    """
    taken = dict(holders)
    tags: dict[str, str] = {}
    refused: list[Refusal] = []
    for wish in wishes:
        has = known.get(wish.seed_id)
        if has is not None and wish.given in (None, has):
            tags[wish.seed_id] = has
        elif has is not None:
            reason = f"this seed's tag is {has!r} and stays so; a new tag needs a new id"
            refused.append(Refusal(wish.seed_id, reason))
        else:
            free = [c for c in candidates(wish) if taken.get(c, wish.seed_id) == wish.seed_id]
            if free:
                tags[wish.seed_id] = free[0]
                taken[free[0]] = wish.seed_id
            else:
                first = candidates(wish)[0]
                reason = f"the tag {first!r} belongs to the seed {taken[first]!r}"
                refused.append(Refusal(wish.seed_id, reason))
    return tags, refused
