"""The status: operations, failures, and the state of each sink."""
