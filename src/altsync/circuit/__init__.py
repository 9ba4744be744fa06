"""Breakers, pauses, budgets and control writes: whether a sink may be called."""
