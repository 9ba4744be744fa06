"""The web page, its JSON, the probes and the metrics, in one process of their own."""
