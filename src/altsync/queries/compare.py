"""Compare the answers of two models to the same questions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from altsync.errors import AltsyncError
from altsync.queries.search import search
from altsync.queries.stores import Stores

#: Answers of each question that are compared.
TOP = 10


@dataclass(frozen=True, slots=True)
class Question:
    """A question: the entity's type, a text, and a filter."""

    entity: str
    text: str
    where: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Compared:
    """The answers of two models to one question.

    ``overlap`` is the share of the first answers that both have. ``correlation`` is Spearman's rank
    correlation of these, None for fewer than two.
    """

    question: Question
    serving: tuple[str, ...]
    other: tuple[str, ...]
    overlap: float
    correlation: float | None


def read_questions(file: Path) -> list[Question]:
    """Return the questions of a JSONL file. Raises ``AltsyncError`` with file and line."""
    questions = []
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            questions.append(
                Question(str(found["entity"]), str(found["text"]), dict(found.get("where") or {}))
            )
        except (ValueError, KeyError, TypeError) as error:
            raise AltsyncError(
                f'{file}:{number}: write {{"entity": "…", "text": "…"}}, with "where" to filter '
                f"({type(error).__name__}: {error})"
            ) from None
    if not questions:
        raise AltsyncError(f"{file}: no question")
    return questions


def compare_answers(
    serving: Stores, other: Stores, questions: Sequence[Question], *, top: int = TOP
) -> Iterator[Compared]:
    """Yield the answers of two models to each question. Raises as ``search``."""
    for one in questions:
        first, second = (
            tuple(found.key for found in search(stores, one.entity, one.text, one.where, top_k=top))
            for stores in (serving, other)
        )
        common = [key for key in first if key in second]
        most = max(len(first), len(second))
        overlap = len(common) / most if most else 1.0
        ranks = correlation([second.index(key) for key in common])
        yield Compared(one, first, second, overlap, ranks)


def correlation(places: Sequence[int]) -> float | None:
    """Return Spearman's rank correlation of distinct places with their order, from -1 to 1.

    1 - 6 Σd² / (n (n² - 1)): https://en.wikipedia.org/wiki/Spearman%27s_rank_correlation_coefficient
    """
    count = len(places)
    if count < 2:
        return None
    ranks = {place: rank for rank, place in enumerate(sorted(places))}
    squares = sum((rank - ranks[place]) ** 2 for rank, place in enumerate(places))
    return 1 - 6 * squares / (count * (count**2 - 1))
