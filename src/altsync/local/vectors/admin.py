"""Drives a running vectors server from tests: its faults and its counters."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from altsync.local.errors import LocalStackError
from altsync.local.vectors.faults import FaultRule
from altsync.local.vectors.stats import Stats, stats_from_json

#: Seconds; every admin request is answered from memory.
TIMEOUT_SECONDS = 5.0

#: Loopback is never reached through a proxy, whatever the environment says.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class VectorsAdmin:
    """Faults and counters of one server. All but ``healthy`` need its key."""

    def __init__(self, base_url: str, api_key: str | None = None) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = {"Api-Key": api_key} if api_key else {}

    def set_faults(self, rules: Sequence[FaultRule], seed: int = 0) -> None:
        """Put these rules in force instead of the present ones.

        ``seed`` makes rules with a probability repeatable. Raises ``LocalStackError``.
        """
        self._ask("PUT", f"/_faults?seed={seed}", [rule.to_json() for rule in rules])

    def clear(self) -> None:
        """No faults any more."""
        self._ask("DELETE", "/_faults")

    def fired(self) -> list[int]:
        """Return how often each rule has fired, in the order they were given."""
        return [int(rule["fired"]) for rule in self._ask("GET", "/_faults")]

    def stats(self) -> Stats:
        """The counters since the start or the last reset."""
        return stats_from_json(self._ask("GET", "/_stats"))

    def reset_stats(self) -> None:
        """Set all counters to zero."""
        self._ask("POST", "/_stats")

    def healthy(self) -> bool:
        """Return whether the server answers at all."""
        try:
            self._ask("GET", "/_health")
        except LocalStackError:
            return False
        return True

    def _ask(self, method: str, path: str, body: object = None) -> Any:
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
