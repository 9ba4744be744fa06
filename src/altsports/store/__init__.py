"""SQL of queries about leagues and examples. Functions take a connection and never commit."""
