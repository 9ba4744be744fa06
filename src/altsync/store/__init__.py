"""SQL on entities that several features share: rows, vectors, keys.

Functions take a connection and never commit. Table and column names come from closed sets.
"""
