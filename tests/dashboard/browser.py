"""Chromium, as the machine has it, and the page in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

#: Chromium in a container, which asks nothing of the network by itself.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

#: Milliseconds that something on the page may take on a busy machine.
TIMEOUT = 20_000.0


@contextmanager
def chromium() -> Iterator[Browser]:
    """The installed Chromium without a window. Skips where there is none, but not in CI."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("there is no chromium on PATH")
        pytest.skip("there is no chromium on PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def page_of(
    browser: Browser,
    url: str,
    *,
    width: int = 1280,
    dark: bool = False,
    expected: str = "nothing",
) -> Iterator[Page]:
    """A fresh visit of the page. Fails when the page complains, or asks another server.

    A complaint with ``expected`` in it is none.
    """
    complaints: list[str] = []
    home = url.partition("#")[0]
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light"
    )
    context.set_default_timeout(TIMEOUT)
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on(
        "request",
        lambda r: None if r.url.startswith(home) else complaints.append(f"asked {r.url}"),
    )
    try:
        page.goto(url)
        page.wait_for_selector("#pulse[data-state=live]")
        yield page
        assert [text for text in complaints if expected not in text] == []
    finally:
        context.close()
