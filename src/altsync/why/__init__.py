"""Explain the state of one entity in every store."""
