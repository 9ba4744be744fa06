"""altsync's own sinks. Each package declares, writes, compares and shows one of them."""
