"""Client of a vectors server's admin requests: faults and counters, for tests."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from altsync.local.errors import LocalStackError
from altsync.local.vectors.faults import FaultRule
from altsync.local.vectors.stats import Stats, stats_from_json

#: Seconds for one admin request, which the server answers from memory.
TIMEOUT_SECONDS = 5.0

#: Ignores the environment's proxies: the server is on loopback.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class VectorsAdmin:
    """Faults and counters of one server. Each call raises ``LocalStackError``.

    All but ``healthy`` need the server's key.
    """

    def __init__(self, base_url: str, api_key: str | None = None) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = {"Api-Key": api_key} if api_key else {}

    def set_faults(self, rules: Sequence[FaultRule], seed: int = 0) -> None:
        """Replace all rules. ``seed`` makes rules with a probability repeatable."""
        self._request("PUT", f"/_faults?seed={seed}", [rule.to_json() for rule in rules])

    def clear(self) -> None:
        """Remove all rules."""
        self._request("DELETE", "/_faults")

    def fired(self) -> list[int]:
        """Return how often each rule has fired, in the order of the rules."""
        return [int(rule["fired"]) for rule in self._request("GET", "/_faults")]

    def stats(self) -> Stats:
        """Return the counters since the start or the last reset."""
        return stats_from_json(self._request("GET", "/_stats"))

    def reset_stats(self) -> None:
        """Reset all counters."""
        self._request("POST", "/_stats")

    def flush(self) -> None:
        """Make every write visible now, whatever its lag."""
        self._request("POST", "/_flush")

    def healthy(self) -> bool:
        """Return whether the server answers."""
        try:
            self._request("GET", "/_health")
        except LocalStackError:
            return False
        return True

    def _request(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - the URL is the caller's own server
            f"{self._base_url}{path}",
            method=method,
            headers=self._headers,
            data=None if body is None else json.dumps(body).encode(),
        )
        try:
            with _direct.open(request, timeout=TIMEOUT_SECONDS) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise LocalStackError(f"{method} {path}: {error.read().decode()}") from error
        except OSError as error:
            raise LocalStackError(f"no vectors server at {self._base_url}: {error}") from error
