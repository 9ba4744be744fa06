"""Erase an entity from every store, and prove it by a receipt."""
