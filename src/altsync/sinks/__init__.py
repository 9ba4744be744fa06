"""Mirrors of PostgreSQL. One file each; see ``base`` for the contract."""
