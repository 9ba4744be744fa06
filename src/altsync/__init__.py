"""altsync keeps Neo4j and Pinecone in step with PostgreSQL through a transactional outbox."""

__version__ = "0.1.0"
