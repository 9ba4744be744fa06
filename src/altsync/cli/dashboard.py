"""``altsync dashboard``: the web page and the metrics."""

from __future__ import annotations

import webbrowser
from typing import Annotated

import typer

from altsync import log
from altsync.cli.common import application
from altsync.cli.terminal import notes


def dashboard(
    host: Annotated[
        str, typer.Option(help="Where to listen; beyond this machine only with a password.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The port. Default 8484, or a free one.")
    ] = None,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open the page in the browser.")
    ] = False,
) -> None:
    """Serve the web page, its JSON, health probes and metrics, until stopped."""
    with application(serving=True) as app:
        log.set_up(level=app.settings.altsync_log_level, form=app.settings.altsync_log_format)
        from altsync.dashboard import access, serve
        from altsync.dashboard.app import build_app

        app.settings.require_database_url()
        app.require_schema()
        rules = access.access_for(host, app.settings)
        with serve.listen(host, port) as socket:
            url = serve.address_of(socket)
            notes.print(f"The dashboard is at {url}")
            if rules.generated:
                notes.print(f"Sign in by {rules.link(url)}", soft_wrap=True)
            if open_browser:
                webbrowser.open(rules.link(url))
            serve.run(build_app(app, rules), socket)
