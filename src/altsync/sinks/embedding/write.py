"""The sink that embeds: each text once per model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import ClassVar

from altsync.config import Settings
from altsync.contract import Answer, Failed, RecordOutcome, SinkTraits, SinkVersion, Written
from altsync.embedding import Embedder, request_slices
from altsync.entities import EntityType, Model, Row
from altsync.operations import ErrorKind
from altsync.projection import digest, embedding_text
from altsync.protocols import VectorStore
from altsync.sinks.embedding import SINK
from altsync.tokens import TooLong, cut, most_tokens, too_long

#: A text of a token or two, sent when a text was refused alone and no other one has passed since.
PROBE = "word"


class Sink:
    """Embeds what no row and no earlier life of a text has paid for.

    Vectors go to the store right after each answer; settling leads the entities to them. Being
    keyed by what they embed, they need no guard against older versions.
    """

    traits: ClassVar[SinkTraits] = SINK.traits

    def __init__(self, embedder: Embedder, vectors: VectorStore, *, cut_long: bool = False) -> None:
        self._embedder = embedder
        self._vectors = vectors
        self.cuts_long = cut_long

    def setup(self) -> None:
        """Nothing to create: migrations made the table."""

    def split(self, rows: Sequence[Row], model: Model) -> list[Sequence[Row]]:
        """First what is known already, at no cost; then the rest by the provider's limits."""
        known = self._vectors.known(model, [row.text_hash for row in rows])
        free = [row for row in rows if row.text_hash in known]
        # Rows of equal texts go together: requests may be under way at once, and each text is
        # paid once.
        missing: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            if row.text_hash not in known:
                missing[row.text_hash].append(row)
        texts = [missing[text_hash] for text_hash in sorted(missing)]
        sizes = [most_tokens(embedding_text(same[0].content)) for same in texts]
        parts = [list(chain.from_iterable(texts[cut])) for cut in request_slices(sizes)]
        return [free, *parts] if free else list(parts)

    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        """Embed the texts that the store lacks, in one request, and keep them at once.

        A text over the model's limit is cut where the settings say so. Else it is not sent: the
        provider would refuse all of the request. Its vector is kept by the hash of the whole text.
        """
        texts = {row.id: embedding_text(row.content) for row in rows}
        good = [row for row in rows if digest(texts[row.id].encode()) == row.text_hash]
        known = self._vectors.known(model, [row.text_hash for row in good])
        missing = {r.text_hash: texts[r.id] for r in good if r.text_hash not in known}
        if self.cuts_long:
            missing = {h: cut(text, model.name) for h, text in missing.items()}
        refused = {h: over for h, text in missing.items() if (over := too_long(text, model.name))}
        missing = {h: text for h, text in missing.items() if h not in refused}
        tokens = 0
        if missing:
            embedded = self._embedder.embed(list(missing.values()), model)
            self._vectors.keep(model, dict(zip(missing, embedded.vectors, strict=True)))
            tokens = embedded.tokens
        fine = {row.id for row in good}
        outcomes = (
            _too_long(row, refused[row.text_hash])
            if row.id in fine and row.text_hash in refused
            else _outcome(row, fine=row.id in fine)
            for row in rows
        )
        return Answer(tuple(outcomes), calls=1 if missing else 0, tokens=tokens)

    def probe(self, model: Model) -> Answer:
        """Embed one word, and keep nothing: evidence that the embedder takes texts.

        Raises ``SinkFailure``.
        """
        embedded = self._embedder.embed([PROBE], model)
        return Answer((), tokens=embedded.tokens)

    def delete(self, rows: Sequence[Row]) -> Answer:
        """Vectors stay: an undeleted entity is not paid again."""
        return Answer(tuple(Written(row.id, row.version) for row in rows), calls=0)

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """Return what each living entity has embedded; ``content_hash`` is that of the text."""
        return self._vectors.versions(entity_type)

    def close(self) -> None:
        """Let go of connections."""
        close = getattr(self._embedder, "close", None)
        if close:
            close()


def _outcome(row: Row, *, fine: bool) -> RecordOutcome:
    if fine:
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
    """The sink, or None when no OPENAI_API_KEY is set."""
    if settings.openai_api_key is None:
        return None
    from altsync.openai_embedder import OpenAIEmbedder

    embedder = OpenAIEmbedder(
        settings.openai_api_key.get_secret_value(),
        base_url=settings.openai_base_url,
        timeout=settings.altsync_sink_timeout_seconds,
    )
    return Sink(embedder, vectors, cut_long=settings.altsync_long_text == "cut")


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
