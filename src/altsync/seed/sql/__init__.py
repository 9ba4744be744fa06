"""SQL of seeding. Functions take a connection and never commit."""
