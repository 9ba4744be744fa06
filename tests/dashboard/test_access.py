"""Access to the page, its passwords, and the headers of every answer."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from altsync import cli
from altsync.app import Application
from altsync.cli.terminal import Exit
from altsync.config import Settings
from altsync.dashboard import access, serve
from altsync.dashboard.access import SECURITY_HEADERS, Access, WrongPasswords, access_for
from altsync.dashboard.api import Api
from altsync.errors import ConfigurationError
from tests.dashboard.site import Site, serving

PASSWORD = "schön:und geheim"

#: Every interface of the machine; the tests only see it refused.
EVERYWHERE = "0.0.0.0"  # noqa: S104


@pytest.fixture
def guarded(app: Application, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A dashboard with a password, whose delays are short."""
    monkeypatch.setattr(access, "FIRST_DELAY", 0.0)
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


def test_other_machines_need_a_password(tmp_path: Path) -> None:
    """Or the dashboard does not start."""
    open_settings = Settings(_env_file=None, altsync_home=tmp_path)
    locked = Settings(_env_file=None, altsync_dashboard_password=PASSWORD)
    for host in ("127.0.0.1", "::1", "localhost"):
        assert access_for(host, open_settings).generated
    for host in (EVERYWHERE, "::", "192.168.1.10", "altsync.example"):
        with pytest.raises(ConfigurationError, match="set ALTSYNC_DASHBOARD_PASSWORD"):
            access_for(host, open_settings)
        assert access_for(host, locked).password == PASSWORD
    assert access_for("127.0.0.1", locked).password == PASSWORD


def test_the_command_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence and an exit code."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://unknown@127.0.0.1:1/none")
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

    monkeypatch.setattr(Api, "_each_page", broken)
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


# --- without ALTSYNC_DASHBOARD_PASSWORD -------------------------------------------------------


@pytest.fixture
def rules(tmp_path: Path) -> Access:
    """The rules of a dashboard on loopback without a chosen password."""
    return access_for("127.0.0.1", Settings(_env_file=None, altsync_home=tmp_path))


@pytest.fixture
def own(app: Application, rules: Access, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A dashboard with a made-up password, whose delays are short."""
    monkeypatch.setattr(access, "FIRST_DELAY", 0.0)
    with serving(app, rules) as site:
        yield site


def signed_in(site: Site) -> dict[str, str]:
    """The cookie that the link gives."""
    answer = site.get("/", token=site.access.link_key)
    return {"Cookie": answer.headers["set-cookie"].partition(";")[0]}


def test_a_password_is_made_up_and_kept_in_a_private_file(tmp_path: Path, rules: Access) -> None:
    file = tmp_path / "dashboard.auth"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text().strip() == f"altsync:{rules.password}"
    again = access_for("127.0.0.1", Settings(_env_file=None, altsync_home=tmp_path))
    assert (again.password, again.session) == (rules.password, rules.session)
    assert again.link_key != rules.link_key
    assert len(rules.password or "") >= 24


def test_the_link_signs_a_browser_in_and_leaves_no_token_behind(own: Site) -> None:
    answer = own.get("/", token=own.access.link_key)
    assert (answer.status, answer.headers["location"]) == (303, "/")
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert own.access.link_key not in cookie + answer.text
    for path in ("/", "/api/session", "/api/overview", "/static/main.js"):
        assert own.get(path, headers=signed_in(own)).status == 200, path


def test_another_account_of_the_machine_sees_and_changes_nothing(own: Site) -> None:
    for path in ("/", "/api/session", "/api/overview", "/api/failures", "/static/main.js"):
        assert own.get(path).status == 401, path
    for path in ("retry", "discard", "pause", "resume", "search"):
        assert own.post(f"/api/{path}", {"group": "any", "sink": "neo4j"}).status == 401, path
    for path in ("/healthz", "/readyz", "/metrics"):
        assert own.get(path).status == 200, path


def test_a_cookie_alone_changes_nothing(own: Site) -> None:
    cookie = signed_in(own)
    assert own.post("/api/retry", {"group": "none"}, cookie).status == 200
    for missing in ({"X-CSRF-Token": ""}, {"Origin": "https://attacker.example"}):
        assert own.post("/api/retry", {"group": "none"}, {**cookie, **missing}).status == 403
    assert own.get("/", headers={**cookie, "Host": "attacker.example"}).status == 403


def test_the_file_of_the_password_lets_scripts_in(own: Site) -> None:
    assert own.get("/api/overview", headers=login(own.access.password or "")).status == 200


def test_each_wrong_password_is_logged_and_the_right_one_is_let_in(own: Site) -> None:
    name = signed_in(own)["Cookie"].partition("=")[0]
    with structlog.testing.capture_logs() as logs:
        wrong = [
            own.get("/api/overview", headers=login("guess")),
            own.get("/api/overview", headers={"Cookie": f"{name}=guess"}),
            own.get("/", token="guess"),
            own.get("/", headers={"Authorization": "Bearer guess"}),
        ]
        assert own.get("/api/overview", headers=login(own.access.password or "")).status == 200
        own.get("/api/overview")
    assert [answer.status for answer in wrong] == [401] * 4
    assert "Max-Age=0" in wrong[1].headers["set-cookie"]
    refused = [one for one in logs if one["event"] == "access.refused"]
    assert [one["failures"] for one in refused] == [1, 2, 3, 4]
    assert {one["client"] for one in refused} == {"127.0.0.1"}
    assert "guess" not in str(logs)


def test_wrong_passwords_are_answered_slower_and_slower_by_client() -> None:
    slept: list[float] = []
    now = [0.0]

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    failures = WrongPasswords(sleep, lambda: now[0])

    async def guess(client: str, times: int) -> None:
        for _ in range(times):
            assert (await failures.note(client, "/")).status_code == 401

    asyncio.run(guess("a", 8))
    assert slept == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    asyncio.run(guess("b", 1))
    assert slept[-1] == 0.25
    now[0] = access.FORGET_AFTER + 1
    asyncio.run(guess("a", 1))
    assert slept[-1] == 0.25


def test_failures_take_a_bounded_amount_of_memory() -> None:
    async def flood() -> tuple[int, int]:
        gate = asyncio.Event()

        async def sleep(_: float) -> None:
            await gate.wait()

        failures = WrongPasswords(sleep)
        asked = [asyncio.create_task(failures.note("a", "/")) for _ in range(500)]
        while sum(task.done() for task in asked) < 500 - access.MOST_WAITING:
            await asyncio.sleep(0)
        gate.set()
        answers = [(await task).status_code for task in asked]
        for place in range(3000):
            await failures.note(str(place), "/")
        return answers.count(429), len(failures._clients)

    refused, kept = asyncio.run(flood())
    assert refused == 500 - access.MOST_WAITING
    assert kept == access.MOST_CLIENTS
