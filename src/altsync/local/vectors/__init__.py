"""A small durable server that speaks Pinecone's REST API and OpenAI's embeddings."""
