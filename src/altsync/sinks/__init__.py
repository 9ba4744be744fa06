"""altsync's own sinks, each a package: its declaration, what writes, compares and shows."""
