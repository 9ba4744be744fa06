"""Check that a broker of any kind answers."""

from __future__ import annotations

from kombu.connection import Connection


def check_broker(url: str, timeout: float) -> None:
    """Connect to a broker within ``timeout`` seconds. Raises kombu's own errors."""
    # Imported here, as the import exits if no broker is set, and doctor must report that.
    from altsync.workers.app import app

    options = app.conf.broker_transport_options
    with Connection(url, connect_timeout=timeout, transport_options=options) as connection:
        connection.ensure_connection(max_retries=1, timeout=timeout)
