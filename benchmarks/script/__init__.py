"""The sequential script of the described system, written as its guide says.

It is what altsync is measured against: every league is embedded, written to PostgreSQL, to the
graph and to the vector index before the next one is looked at.
"""
