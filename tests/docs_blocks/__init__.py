"""The fenced blocks of the documentation: found, checked, and run on the embedded stack."""
