"""The libraries that altsync is compared with, used as their documentation describes."""
