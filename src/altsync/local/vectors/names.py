"""Names that the clients of the vectors server use."""

from __future__ import annotations

#: The embedding model. It is not one of OpenAI's.
EMBEDDING_MODEL = "wordllama-l2-256"

#: The embedding models, and the dimensions of each that differ from zero. The second one is the
#: first one cut short, to try a change of model.
EMBEDDING_MODELS = {EMBEDDING_MODEL: 256, "wordllama-l2-64": 64}

#: Pinecone's namespace of requests without a namespace.
DEFAULT_NAMESPACE = "__default__"
