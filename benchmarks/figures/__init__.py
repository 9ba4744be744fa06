"""One module for each figure: ``NUMBER``, ``TITLE`` and ``measure(bench)``."""
