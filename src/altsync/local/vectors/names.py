"""Names that clients of the vectors server use."""

from __future__ import annotations

#: The one embedding model on offer. It is no OpenAI model, and its name says so.
EMBEDDING_MODEL = "wordllama-l2-256"

#: Pinecone's name for the namespace of requests that name none.
DEFAULT_NAMESPACE = "__default__"
