"""Remove secrets from every text that altsync shows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

#: Shorter secrets are not removed: they would match parts of common words.
_SHORTEST_SECRET = 6

#: Passwords of examples that are also names. The patterns below remove them as passwords.
_NAMES = frozenset({"altsync", "postgres", "postgresql", "password", "pinecone", "neo4j"})

#: Passwords inside URLs, and keys of the providers.
_URL_PASSWORD = re.compile(r"(?<=://)([^:/@\s]*):([^@/\s]+)(?=@)")
_PATTERNS = (
    re.compile(r"\b(sk-[A-Za-z0-9_\-]{8,}|pcsk_[A-Za-z0-9_\-]{8,})"),
    re.compile(r"(?i)(?<=bearer )[A-Za-z0-9._\-]{8,}"),
    re.compile(r"(?i)(?<=\bpassword=)('(?:[^'\\]|\\.)*'|[^\s'&]+)"),
)

#: The password of a URL, also of a malformed one: up to the last ``@``.
_LOGIN = re.compile(r"^\s*[\"']?[^/]*:/{0,2}[^:]*:(.*)@", re.DOTALL)

#: The separator of two Sentinels, each with a login.
_NEXT_SENTINEL = re.compile(r";\s*(?=sentinel://)", re.IGNORECASE)

_secrets: set[str] = set()


def protect(secrets: Iterable[str | None]) -> None:
    """Add secrets that ``redact`` removes from now on."""
    _secrets.update(
        s for s in secrets if s and len(s) >= _SHORTEST_SECRET and s.casefold() not in _NAMES
    )


def protect_address(url: str) -> None:
    """Add the passwords of a URL, or of a list of Sentinels, also of a malformed one."""
    for one in _NEXT_SENTINEL.split(url):
        found = _LOGIN.match(one)
        if found is None:
            continue
        # A driver may split a password at a separator, and show one part.
        pieces = [found[1], *re.split(r"[@/?#:%]", found[1])]
        forms = [f for piece in pieces for f in (piece, unquote(piece), quote(piece, safe=""))]
        protect(forms)


def redact(text: str) -> str:
    """Return the text without known secrets, passwords in URLs and provider keys."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    text = _URL_PASSWORD.sub(lambda found: f"{found[1]}:***", text)
    for pattern in _PATTERNS:
        text = pattern.sub("***", text)
    return text


def without_login(url: str) -> str:
    """Return an address without its login, and without the scheme of a driver."""
    return redact(url).split("@")[-1].removeprefix("bolt://").removeprefix("redis://")
