"""The embedded stack: every server that altsync needs, on loopback, from Python packages."""
