"""The sequential script of the described system, written as its guide says.

altsync is measured against it. It embeds each league and writes it to PostgreSQL, the graph and
the vector index before the next one.
"""
