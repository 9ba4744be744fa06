"""Names that the clients of the vectors server use."""

from __future__ import annotations

#: The only embedding model. It is not one of OpenAI's.
EMBEDDING_MODEL = "wordllama-l2-256"

#: Pinecone's namespace of requests without a namespace.
DEFAULT_NAMESPACE = "__default__"
