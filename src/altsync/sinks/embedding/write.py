"""The sink that embeds: each text once per model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import ClassVar

from altsync.config import Settings
from altsync.contract import (
    Answer,
    Failed,
    RecordOutcome,
    SinkTraits,
    SinkVersion,
    Usage,
    Written,
)
from altsync.embedding import Embedder, request_sizes, request_slices
from altsync.entities import EntityType, Model, Row
from altsync.operations import ErrorKind
from altsync.projection import digest, embedding_text
from altsync.protocols import VectorStore
from altsync.sinks.embedding import SINK
from altsync.tokens import TooLong, cut, most_tokens, too_long

#: The text of a probe: one or two tokens.
PROBE = "word"


class Sink:
    """Embeds the texts that have no stored vector of the model.

    Vectors are stored right after each answer. They are keyed by the hash of the text, so an older
    version of an entity cannot replace a newer one.
    """

    traits: ClassVar[SinkTraits] = SINK.traits

    def __init__(self, embedder: Embedder, vectors: VectorStore, *, cut_long: bool = False) -> None:
        self._embedder = embedder
        self._vectors = vectors
        self.cuts_long = cut_long

    def setup(self) -> None:
        """Do nothing: migrations create the table."""

    def split(self, rows: Sequence[Row], model: Model) -> list[Sequence[Row]]:
        """Return rows with stored vectors first, then requests within the provider's limits."""
        known = self._vectors.known(model, [row.text_hash for row in rows])
        known_rows = [row for row in rows if row.text_hash in known]
        # Rows of equal texts share a request: two parallel requests would both be charged.
        missing: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            if row.text_hash not in known:
                missing[row.text_hash].append(row)
        texts = [missing[text_hash] for text_hash in sorted(missing)]
        sizes = request_sizes([embedding_text(same[0].content) for same in texts], model.name)
        parts = [list(chain.from_iterable(texts[cut])) for cut in request_slices(sizes)]
        return [known_rows, *parts] if known_rows else list(parts)

    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        """Embed the texts without a stored vector in one request, and store their vectors.

        A text over the model's limit is cut if the settings allow it, and its vector is stored by
        the hash of the whole text. Else it is not sent: the provider would refuse the request.
        """
        texts = {row.id: embedding_text(row.content) for row in rows}
        unedited_rows = [row for row in rows if digest(texts[row.id].encode()) == row.text_hash]
        known = self._vectors.known(model, [row.text_hash for row in unedited_rows])
        missing = {r.text_hash: texts[r.id] for r in unedited_rows if r.text_hash not in known}
        if self.cuts_long:
            missing = {h: cut(text, model.name) for h, text in missing.items()}
        too_big = {h: over for h, text in missing.items() if (over := too_long(text, model.name))}
        missing = {h: text for h, text in missing.items() if h not in too_big}
        tokens = 0
        if missing:
            embedded = self._embedder.embed(list(missing.values()), model)
            self._vectors.keep(model, dict(zip(missing, embedded.vectors, strict=True)))
            tokens = embedded.tokens
        unedited = {row.id for row in unedited_rows}
        outcomes = (
            _too_long(row, too_big[row.text_hash])
            if row.id in unedited and row.text_hash in too_big
            else _outcome(row, unedited=row.id in unedited)
            for row in rows
        )
        return Answer(tuple(outcomes), calls=1 if missing else 0, tokens=tokens)

    def most_usage(self, rows: Sequence[Row], model: Model, removing: bool) -> Usage:
        """Return an upper bound of what one call costs: a byte for a token of each new text.

        Without rows, it is that of a probe.
        """
        if removing:
            return Usage()
        if not rows:
            return Usage(tokens=most_tokens(PROBE))
        known = self._vectors.known(model, [row.text_hash for row in rows])
        new = {row.text_hash: row for row in rows if row.text_hash not in known}
        return Usage(tokens=sum(most_tokens(embedding_text(row.content)) for row in new.values()))

    def probe(self, model: Model) -> Answer:
        """Embed one word without storing it, as evidence that the embedder accepts texts.

        Raises ``SinkFailure``.
        """
        embedded = self._embedder.embed([PROBE], model)
        return Answer((), tokens=embedded.tokens)

    def delete(self, rows: Sequence[Row]) -> Answer:
        """Keep the vectors: an undeleted entity is not charged again."""
        return Answer(tuple(Written(row.id, row.version) for row in rows), calls=0)

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """List the living entities with the hash of their embedded text as ``content_hash``."""
        return self._vectors.versions(entity_type)

    def close(self) -> None:
        """Close the embedder's connections."""
        close = getattr(self._embedder, "close", None)
        if close:
            close()


def _outcome(row: Row, *, unedited: bool) -> RecordOutcome:
    if unedited:
        return Written(row.id, row.version)
    return Failed(
        row.id,
        ErrorKind.ITEM,
        "the row was edited by SQL, or seeded by another version of the rule for embedded texts: "
        "altsync seed restores the seed's values, altsync verify --repair keeps the edit",
    )


def _too_long(row: Row, over: TooLong) -> Failed:
    return Failed(row.id, ErrorKind.ITEM, str(over), final=True)


def open_sink(settings: Settings, vectors: VectorStore) -> Sink | None:
    """Return the sink, or None when OPENAI_API_KEY is not set."""
    if settings.openai_api_key is None:
        return None
    from altsync.openai_embedder import OpenAIEmbedder

    embedder = OpenAIEmbedder(
        settings.openai_api_key.get_secret_value(),
        base_url=settings.openai_base_url,
        timeout=settings.altsync_sink_timeout_seconds,
    )
    return Sink(embedder, vectors, cut_long=settings.cut_long)


def check(settings: Settings, sink: Sink, timeout: float) -> str:
    """Return which model answers. Raises what the SDK raises."""
    import openai

    assert settings.openai_api_key is not None
    with openai.OpenAI(
        api_key=settings.openai_api_key.get_secret_value(),
        base_url=settings.openai_base_url,
        timeout=timeout,
        max_retries=0,
    ) as client:
        client.models.retrieve(settings.altsync_embedding_model)
    model = settings.wanted_model
    return f"{model.name} ({model.dimensions} dimensions) at {settings.openai_base_url}"
