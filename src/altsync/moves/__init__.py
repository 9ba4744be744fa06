"""Models side by side: add one, fill its indexes, exchange the two, drop one."""
