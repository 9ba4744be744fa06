"""Measure altsync beside the libraries and scripts that it is compared with."""
