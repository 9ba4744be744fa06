"""An embedder that is opened for its first text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

from altsync.config import Settings
from altsync.embedding import Embedded, Embedder
from altsync.entities import Model


class LazyEmbedder:
    """OpenAI's embedder, opened for the first text: most queries need no new vector."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._close: Callable[[], None] = lambda: None

    @cached_property
    def _opened(self) -> Embedder:
        from altsync.openai_embedder import OpenAIEmbedder

        assert self._settings.openai_api_key is not None
        embedder = OpenAIEmbedder(
            self._settings.openai_api_key.get_secret_value(),
            base_url=self._settings.openai_base_url,
            timeout=self._settings.altsync_sink_timeout_seconds,
        )
        self._close = embedder.close
        return embedder

    def embed(self, texts: Sequence[str], model: Model) -> Embedded:
        """Embed texts in one request. Raises ``SinkFailure``."""
        return self._opened.embed(texts, model)

    def close(self) -> None:
        """Close the connections, if there are any."""
        self._close()
