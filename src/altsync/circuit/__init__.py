"""Breakers, pauses, budgets and evidence: whether a sink may be called."""
