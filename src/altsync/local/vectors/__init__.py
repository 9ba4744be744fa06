"""A small durable server for Pinecone's REST API and OpenAI's embeddings."""
