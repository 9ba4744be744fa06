"""Prices, units, and the ledger of costs."""
