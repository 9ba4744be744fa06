"""Assign keys to seeds. An assigned key belongs to its seed id permanently. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from altsync.projection import digest

#: Characters of a key made from a name.
SLUG_LENGTH = 80

#: Characters of the hash in the keys of seeds with the same name and place.
SUFFIX_LENGTH = 8

#: Slugs in the cache: a name is converted twice in a batch, a place far more often.
SLUGS = 8192

_NOT_WORD = re.compile(r"[^a-z0-9]+")

#: Letters that Unicode does not decompose to ASCII, with their usual spelling.
_LETTERS = {
    "ß": "ss",
    "ø": "o",
    "đ": "d",
    "ð": "d",
    "þ": "th",
    "ł": "l",
    "ŀ": "l",
    "æ": "ae",
    "œ": "oe",
    "ı": "i",
    "ħ": "h",
    "ŧ": "t",
    "ŋ": "n",
    "ĸ": "k",
    "ə": "e",
    "ɛ": "e",
    "ɔ": "o",
    "ɓ": "b",
    "ɗ": "d",
    "ƙ": "k",
    "ƴ": "y",
    "ƒ": "f",
    "×": "x",
}

#: Apostrophes, and characters that are written in their place. They do not divide words.
_APOSTROPHES = frozenset("'‘’‚‛`´ʹʻʼʽʾʿˈ′‵＇")

#: Categories of Unicode that do not divide words: letters and digits that ASCII lacks, accents,
#: and invisible characters. All others divide words.
#: https://www.unicode.org/reports/tr44/#General_Category_Values
_JOINING = ("L", "M", "N", "Cf")


class KeyRequest(NamedTuple):
    """A request for a key: the given one, or one made from name and place.

    ``preferred`` is the key that is assigned when no other seed has it.
    """

    seed_id: str
    given: str | None
    name: str
    location: str | None
    preferred: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason why a seed cannot have the key that it gives."""

    seed_id: str
    reason: str


@lru_cache(maxsize=SLUGS)
def slug(text: str) -> str:
    """Return a text as lower-case ASCII words joined by underscores; "" if nothing is left."""
    if not text.isascii():
        # Compatible forms first (№, 𝔸, ﬁ, full width): lower() leaves them.
        text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).lower())
        text = "".join(map(_to_ascii, text))
    text = text.lower().replace("'", "")
    return _NOT_WORD.sub("_", text).strip("_")[:SLUG_LENGTH].strip("_")


@lru_cache(maxsize=SLUGS)
def _to_ascii(character: str) -> str:
    """Return a character in ASCII: letters or digits, nothing, or a space."""
    if character.isascii():
        return character
    if character in _LETTERS:
        return _LETTERS[character]
    is_joining = character in _APOSTROPHES or unicodedata.category(character).startswith(_JOINING)
    return "" if is_joining else " "


def request_key(seed_id: str, given: str | None, name: str, location: str | None) -> KeyRequest:
    """Return the request of a seed that gives this key, name and place."""
    return KeyRequest(
        seed_id, given, name, location, given or slug(name) or _unique("seed", seed_id)
    )


def candidates(request: KeyRequest) -> Iterator[str]:
    """Yield the keys that a seed may get, the preferred first. The last one is unique."""
    yield request.preferred
    name = slug(request.name)
    if name and not request.given:
        place = slug(request.location or "")
        if place:
            yield f"{name}_{place}"
        yield _unique(name, request.seed_id)


def _unique(name: str, seed_id: str) -> str:
    return f"{name}_{digest(seed_id.encode())[:SUFFIX_LENGTH]}"


def assign(
    requests: Sequence[KeyRequest], known: Mapping[str, str], holders: Mapping[str, str]
) -> tuple[dict[str, str], list[Refusal]]:
    """Return the key of each request by seed id, and the refused requests.

    A request keeps its present key, or gets the first free candidate. One that gives another key
    than its present one is renamed. ``known`` has present keys by seed id, ``holders`` seed ids by
    their present and former keys.
    """
    taken = dict(holders)
    assigned: dict[str, str] = {}
    refused: list[Refusal] = []
    for request in requests:
        present = known.get(request.seed_id)
        if present is not None and request.given in (None, present):
            assigned[request.seed_id] = present
        elif (key := _free(request, taken)) is not None:
            assigned[request.seed_id] = key
            taken[key] = request.seed_id
        else:
            reason = (
                f"the key {request.preferred!r} belongs to the seed {taken[request.preferred]!r}"
            )
            refused.append(Refusal(request.seed_id, reason))
    return assigned, refused


def _free(request: KeyRequest, taken: Mapping[str, str]) -> str | None:
    for key in candidates(request):
        if taken.get(key, request.seed_id) == request.seed_id:
            return key
    return None
