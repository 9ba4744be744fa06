"""Declarations: classes of entities with marks, and the catalogue that lists them.

The names are exported by ``altsync`` itself. :mod:`altsync.catalogue.current` is the catalogue of
this process; it imports SQLModel when it is first used.
"""
