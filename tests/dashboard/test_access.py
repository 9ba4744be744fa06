"""Who is let in, what is asked of them, and the headers of every answer."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from altsync import cli
from altsync.app import Application
from altsync.cli.terminal import Exit
from altsync.config import Settings
from altsync.dashboard import serve
from altsync.dashboard.access import SECURITY_HEADERS, Access, access_for
from altsync.dashboard.api import Api
from altsync.errors import ConfigurationError
from tests.dashboard.site import Site, serving

PASSWORD = "schön:und geheim"

#: Every interface of the machine; the tests only see it refused.
EVERYWHERE = "0.0.0.0"  # noqa: S104


@pytest.fixture
def guarded(app: Application) -> Iterator[Site]:
    """A dashboard with a password."""
    with serving(app, Access(PASSWORD)) as site:
        yield site


def login(password: str, user: str = "anybody") -> dict[str, str]:
    """The header of basic authentication."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_this_machine_is_let_in_by_its_own_names(site: Site) -> None:
    """Any port will do: a tunnel has one of its own."""
    for host in ("localhost", "LOCALHOST:8484", "127.0.0.1", "127.8.0.1:1", "[::1]", "[::1]:8484"):
        assert site.get("/api/session", headers={"Host": host}).status == 200, host


@pytest.mark.parametrize("path", ["/", "/api/overview", "/static/main.js", "/metrics", "/healthz"])
def test_a_name_that_another_site_made_point_here_gets_nothing(site: Site, path: str) -> None:
    """DNS rebinding: the browser sends the attacker's name."""
    for host in (
        *("attacker.example", "localhost.attacker.example", "127.0.0.1.attacker.example"),
        *("192.168.1.10", "0.0.0.0:80", "", "[", "user@attacker.example"),
    ):
        answer = site.get(path, headers={"Host": host})
        assert answer.status == 403, host
        assert "localhost" in answer.json["error"]


def test_a_password_is_asked_for(guarded: Site) -> None:
    """Of everybody, for everything but the sign of life."""
    encoded = login(PASSWORD)["Authorization"].split()[1]
    for path in ("/", "/api/overview", "/static/main.js", "/readyz", "/metrics"):
        refused = guarded.get(path)
        assert (refused.status, refused.headers["www-authenticate"]) == (
            401,
            'Basic realm="altsync", charset="UTF-8"',
        )
        for wrong in (
            *(login("wrong"), login(""), login(PASSWORD + " ")),
            *({"Authorization": text} for text in ("Basic %%%", "Basic", f"Bearer {encoded}")),
        ):
            assert guarded.get(path, headers=wrong).status == 401
        assert guarded.get(path, headers=login(PASSWORD)).status == 200
    assert guarded.get("/healthz").text == "ok\n"


def test_with_a_password_any_name_will_do(guarded: Site) -> None:
    """Behind a proxy the name is the public one; another site has no password for its own name."""
    headers = {"Host": "altsync.example", **login(PASSWORD)}
    assert guarded.get("/api/session", headers=headers).status == 200


def test_other_machines_need_a_password() -> None:
    """Or the dashboard does not start."""
    open_settings = Settings(_env_file=None)
    locked = Settings(_env_file=None, altsync_dashboard_password=PASSWORD)
    for host in ("127.0.0.1", "::1", "localhost"):
        assert access_for(host, open_settings).password is None
    for host in (EVERYWHERE, "::", "192.168.1.10", "altsync.example"):
        with pytest.raises(ConfigurationError, match="set ALTSYNC_DASHBOARD_PASSWORD"):
            access_for(host, open_settings)
        assert access_for(host, locked).password == PASSWORD
    assert access_for("127.0.0.1", locked).password == PASSWORD


def test_the_command_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence and an exit code."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    result = CliRunner().invoke(cli.app, ["dashboard", "--host", EVERYWHERE])
    assert result.exit_code == Exit.SETTINGS
    assert "set ALTSYNC_DASHBOARD_PASSWORD" in " ".join(result.stderr.split())


def test_a_taken_port_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was asked for is taken or refused; the usual one is stepped aside from."""
    with serve.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"127.0.0.1, port {port}"):
            serve.listen("127.0.0.1", port)
        monkeypatch.setattr(serve, "DEFAULT_PORT", port)
        with serve.listen("127.0.0.1", None) as other:
            assert other.getsockname()[1] != port


@pytest.mark.parametrize(
    "path", ["/api/retry", "/api/discard", "/api/pause", "/api/resume", "/api/search"]
)
def test_another_site_changes_nothing(site: Site, path: str) -> None:
    """Neither with a foreign origin nor without the token."""
    origins = ("https://attacker.example", "null", "", "http://localhost")
    tokens = ("", "wrong", "fälsch")
    for headers in (
        *({"Origin": origin} for origin in origins),
        *({"X-CSRF-Token": token} for token in tokens),
    ):
        assert site.post(path, {"group": "any"}, headers).status == 403, headers


def test_another_site_asks_nothing_either(site: Site) -> None:
    """It may lead here by a link, and no further."""
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert site.get("/", headers=headers).status == 200
    assert site.get("/api/stores", headers=headers, key="a").status == 403
    assert site.get("/metrics", headers={"Sec-Fetch-Site": "same-origin"}).status == 200
    assert site.get("/metrics", headers={"Sec-Fetch-Site": "none"}).status == 200


def test_the_page_itself_may(site: Site) -> None:
    """With the token that only it can read."""
    token = site.get("/api/session").json["csrf_token"]
    answer = site.post("/api/retry", {"group": "none"}, {"X-CSRF-Token": token})
    assert (answer.status, answer.json) == (200, {"retried": 0, "due": 0})


def test_every_answer_is_marked(site: Site) -> None:
    """With the policy that lets nothing in from elsewhere."""
    for method, path, status in (
        *(("GET", path, 200) for path in ("/", "/static/style.css", "/healthz", "/api/overview")),
        *(("GET", path, 404) for path in ("/nothing", "/static/nothing", "/static/../app.py")),
        ("POST", "/api/overview", 403),
        ("GET", "/api/retry", 405),
        ("GET", "/api/throughput?window=1y", 400),
    ):
        answer = site.ask(method, path)
        assert answer.status == status, path
        assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        assert "server" not in answer.headers


def test_what_breaks_is_not_shown(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer says where to look, and nothing of the error."""

    def broken(*_: object) -> None:
        raise RuntimeError("with a secret")

    monkeypatch.setattr(Api, "_error_of", broken)
    answer = site.post("/api/retry", {"group": "any"})
    assert (answer.status, "secret" in answer.text) == (500, False)
    assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS


def test_nonsense_is_refused(site: Site) -> None:
    """With a sentence that says why."""
    headers = {"Origin": site.url.rstrip("/"), "X-CSRF-Token": site.access.token}
    for body, sentence in (
        (b"{", "the request is not JSON"),
        (b"[]", "the request is not a JSON object"),
        (b'{"group": 1}', "group must be text"),
        (b"{}", "say what to retry"),
        (b'{"key": "a", "entity_type": "table"}', "no entity type 'table'"),
        (b'"' + b"x" * 20_000 + b'"', "larger than"),
    ):
        answer = site.ask("POST", "/api/retry", body, headers)
        assert answer.status == 400
        assert sentence in answer.json["error"]
