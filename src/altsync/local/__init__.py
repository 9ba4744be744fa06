"""The embedded stack: every server that altsync talks to, on loopback, from wheels alone."""
