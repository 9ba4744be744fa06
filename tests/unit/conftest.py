"""Settings of the property tests in this folder."""

from __future__ import annotations

from hypothesis import settings

# No deadline: a busy machine must not fail a test. Failures print what repeats them.
settings.register_profile("altsync", deadline=None, database=None, print_blob=True, max_examples=40)
settings.load_profile("altsync")
