"""The commands that come with the sports catalogue."""
