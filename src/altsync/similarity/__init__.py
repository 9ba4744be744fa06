"""Relationships between entities whose vectors are near."""
