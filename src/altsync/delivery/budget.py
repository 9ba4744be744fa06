"""Keep within a provider's limits a minute, over all workers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from altsync.circuit import budget
from altsync.contract import Answer, SinkTraits
from altsync.db import Database
from altsync.delivery.policy import Policy
from altsync.entities import Row
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind
from altsync.projection import embedding_text

#: Bytes of a token, for an estimate that the provider's own count corrects afterwards.
#: https://help.openai.com/en/articles/4936856: about four characters of English.
BYTES_PER_TOKEN = 4

MINUTE = 60.0

#: Most estimated tokens of one text: the limit of OpenAI's models, times the largest error of the
#: estimate.
MOST_TOKENS = 8192 * BYTES_PER_TOKEN


@dataclass(frozen=True, slots=True)
class Reservation:
    """A reservation of calls: seconds until their turn, and the estimated tokens of each."""

    wait: float
    tokens: tuple[int, ...]


class Budget:
    """The requests and tokens a minute that all workers of a sink share."""

    def __init__(self, database: Database, sink: str, policy: Policy) -> None:
        self._database = database
        self._sink = sink
        self._requests = policy.requests_per_minute
        self._tokens = policy.tokens_per_minute
        # A worker holds its lease while it waits, and the call must end before the lease does.
        self._max_wait = (policy.lease - policy.timeout) / 2

    @property
    def most(self) -> float:
        """Return the most tokens of a wave: the budget of half the longest wait, or of a minute.

        Half, so that two workers can take turns.
        """
        if self._tokens is None:
            return math.inf
        return max(1.0, self._tokens * min(MINUTE, self._max_wait / 2) / MINUTE)

    @property
    def most_calls(self) -> float:
        """Return the most calls of a wave."""
        if self._requests is None:
            return math.inf
        return max(1.0, self._requests * min(MINUTE, self._max_wait / 2) / MINUTE)

    def reserve(self, calls: Sequence[Sequence[Row]]) -> Reservation | None:
        """Reserve calls with these rows; None without a limit.

        Raises ``SinkFailure`` with the wait as ``retry_after`` when it is too long for a lease.
        """
        if self._requests is None and self._tokens is None:
            return None
        guesses = tuple(guessed_tokens(rows) for rows in calls)
        requests, tokens = self._seconds(len(calls), sum(guesses))
        with self._database.autocommit() as conn:
            granted, wait = budget.reserve(
                conn,
                self._sink,
                requests=requests,
                tokens=tokens,
                max_wait=self._max_wait,
                longest=self._max_wait + max(MINUTE, *self._seconds(1, MOST_TOKENS)),
            )
        if not granted:
            reason = f"the budget of {self} is used up"
            raise SinkFailure(ErrorKind.SINK, reason, retry_after=wait)
        return Reservation(wait, guesses)

    def correct(self, reserved: Reservation, answers: Sequence[Answer | SinkFailure]) -> None:
        """Replace the estimates of answered calls by their price; failed calls keep theirs."""
        requests = tokens = 0
        for guess, answer in zip(reserved.tokens, answers, strict=True):
            if isinstance(answer, Answer):
                requests += answer.calls - 1
                tokens += answer.tokens - guess
        more_requests, more_tokens = self._seconds(requests, tokens)
        with self._database.autocommit() as conn:
            budget.correct(conn, self._sink, requests=more_requests, tokens=more_tokens)

    def _seconds(self, requests: int, tokens: int) -> tuple[float, float]:
        """Return amounts as seconds of the two budgets."""
        return (
            MINUTE * requests / self._requests if self._requests else 0.0,
            MINUTE * tokens / self._tokens if self._tokens else 0.0,
        )

    def __str__(self) -> str:
        limits = (("requests", self._requests), ("tokens", self._tokens))
        return " and ".join(f"{limit:,} {unit}" for unit, limit in limits if limit) + " a minute"


def guessed_tokens(rows: Sequence[Row]) -> int:
    """Estimate the tokens of the texts of rows; each text counts once."""
    texts = {row.text_hash: row for row in rows if not row.deleted}
    size = sum(len(embedding_text(row.content).encode()) for row in texts.values())
    return -(-size // BYTES_PER_TOKEN)


def size_of(sink: SinkTraits, rows: Sequence[Row]) -> float:
    """Return the size of a call in the unit of the sink's limits: tokens, or records."""
    return float(guessed_tokens(rows)) if sink.embeds else float(len(rows))


def fitting(sink: SinkTraits, rows: Sequence[Row], most: float) -> int:
    """Return how many of the first rows make a call of at most ``most``; one text at least.

    Rows of equal text stay together, as each text is charged once.
    """
    if size_of(sink, rows) <= most:
        return len(rows)
    count, size = 0, 0.0
    key = _text if sink.embeds else id
    for _, group in groupby(rows, key):
        same = list(group)
        size += size_of(sink, same)
        if count and size > most:
            break
        count += len(same)
    return count


def _text(row: Row) -> object:
    return row.text_hash
