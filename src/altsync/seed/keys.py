"""Which tag a seed gets. A tag, once given, is permanently its seed id's, and no other's."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from altsync.projection import digest

#: Characters of a tag made from a name.
SLUG_LENGTH = 80

#: Characters of the hash that tells namesakes apart when their places do not.
SUFFIX_LENGTH = 8

#: Texts whose slug is remembered: it is asked for twice within a batch, places far more often.
SLUGS = 8192

_NOT_WORD = re.compile(r"[^a-z0-9]+")

#: Letters that Unicode does not decompose to ASCII, as they are usually written.
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

#: Apostrophes, and letters and marks that are written in their place: they join what they divide.
_APOSTROPHES = frozenset("'‘’‚‛`´ʹʻʼʽʾʿˈ′‵＇")

#: Categories of Unicode whose characters join what they stand between: letters and digits that
#: ASCII cannot say, accents, and what is not shown at all. All others divide words.
#: https://www.unicode.org/reports/tr44/#General_Category_Values
_JOINING = ("L", "M", "N", "Cf")


class KeyRequest(NamedTuple):
    """What a seed asks for: a tag of its own, or one made from its name and place.

    ``preferred`` is the tag that it gets when no other seed has it.
    """

    seed_id: str
    given: str | None
    name: str
    location: str | None
    preferred: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a seed cannot have the tag that it gives itself."""

    seed_id: str
    reason: str


@lru_cache(maxsize=SLUGS)
def slug(text: str) -> str:
    """The text in lower-case ASCII words joined by underscores; empty when nothing is left."""
    if not text.isascii():
        # Compatible forms first (№, 𝔸, ﬁ, full width): lower() does not know them.
        text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).lower())
        text = "".join(map(_plain, text))
    text = text.lower().replace("'", "")
    return _NOT_WORD.sub("_", text).strip("_")[:SLUG_LENGTH].strip("_")


@lru_cache(maxsize=SLUGS)
def _plain(character: str) -> str:
    """A character as ASCII writes it: a letter or digit, nothing, or a space."""
    if character.isascii():
        return character
    if character in _LETTERS:
        return _LETTERS[character]
    joins = character in _APOSTROPHES or unicodedata.category(character).startswith(_JOINING)
    return "" if joins else " "


def request_key(seed_id: str, given: str | None, name: str, location: str | None) -> KeyRequest:
    """Return what a seed asks for that gives this tag, name and place."""
    return KeyRequest(
        seed_id, given, name, location, given or slug(name) or _of_its_own("seed", seed_id)
    )


def candidates(request: KeyRequest) -> Iterator[str]:
    """The tags that a seed may have, the best first. The last one is its own alone."""
    yield request.preferred
    name = slug(request.name)
    if name and not request.given:
        place = slug(request.location or "")
        if place:
            yield f"{name}_{place}"
        yield _of_its_own(name, request.seed_id)


def _of_its_own(name: str, seed_id: str) -> str:
    return f"{name}_{digest(seed_id.encode())[:SUFFIX_LENGTH]}"


def assign(
    requests: Sequence[KeyRequest], known: Mapping[str, str], holders: Mapping[str, str]
) -> tuple[dict[str, str], list[Refusal]]:
    """Give every request its tag: the one it has already, or the first candidate that is free.

    A request that gives another tag than it has is a renaming. ``known`` holds tags by seed id,
    ``holders`` seed ids by the tags that are taken, or were. Returns the tags by seed id, and who
    was refused.
    """
    taken = dict(holders)
    tags: dict[str, str] = {}
    refused: list[Refusal] = []
    for request in requests:
        has = known.get(request.seed_id)
        if has is not None and request.given in (None, has):
            tags[request.seed_id] = has
        elif (tag := _free(request, taken)) is not None:
            tags[request.seed_id] = tag
            taken[tag] = request.seed_id
        else:
            reason = (
                f"the tag {request.preferred!r} belongs to the seed {taken[request.preferred]!r}"
            )
            refused.append(Refusal(request.seed_id, reason))
    return tags, refused


def _free(request: KeyRequest, taken: Mapping[str, str]) -> str | None:
    for tag in candidates(request):
        if taken.get(tag, request.seed_id) == request.seed_id:
            return tag
    return None
