"""Prove that every sink agrees with PostgreSQL, and repair where one does not."""
