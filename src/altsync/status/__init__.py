"""What waits, what failed, and how the sinks are."""
