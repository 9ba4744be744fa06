"""The page in a real browser, over a real database and the local vectors server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

import psycopg
import pytest
from playwright.sync_api import Browser, Page, expect

from altsync.app import Application
from altsync.db import Database
from altsync.entities import Model
from altsync.local.services.postgres import Postgres
from altsync.local.services.vectors import Vectors
from altsync.local.vectors.names import EMBEDDING_MODEL
from altsync.moves import state
from altsync.verify.results import save_verification
from tests import sports
from tests.contract.harness import PineconeHarness
from tests.dashboard.browser import TIMEOUT, chromium, page_of
from tests.dashboard.site import Site, local_services, serving, settings_for
from tests.dashboard.test_api import dead_letter, record, relate
from tests.integration.database_fixture import DatabaseFixture, archetype, deliver, example, league
from tests.integration.fakes import FakeGraph

pytestmark = [pytest.mark.browser, pytest.mark.slow]

#: A key that would run if it were ever taken for HTML.
NASTY = "<img src=x onerror=document.title='owned'>"

VIEWS = ("overview", "operations", "search", "graph/league/formula_1", "entity/league/formula_1")

LEAGUES: tuple[sports.League, ...] = (
    league("formula_1", league_name="Formula 1", sport_name="Formula Racing", tier="TIER1",
           sport_archetype="racing", description="The fastest single-seater racing cars."),
    league("f1_academy", league_name="F1 Academy", sport_name="Formula Racing", tier="TIER3",
           sport_archetype="racing", description="Young drivers race single-seater cars."),
    league("dtm", league_name="DTM", sport_name="Touring Car Racing", tier="TIER2",
           sport_archetype="racing", description="Touring cars race on German circuits."),
    league("serie_a", league_name="Serie A", sport_name="Football", tier="TIER1",
           location="Italy", description="Italy's first football division."),
    league("serie_b", league_name="Serie B", sport_name="Football", tier="TIER2",
           status="inactive", location="Italy", description="Italy's second football division."),
)  # fmt: skip


@dataclass(frozen=True)
class FilledDashboard:
    """A dashboard with something on it, and the database below."""

    site: Site
    pg: DatabaseFixture

    @property
    def url(self) -> str:
        """Return the URL of the page."""
        return self.site.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests of this module."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def dashboard(
    browser: Browser, postgres: Postgres, vectors_server: Vectors
) -> Iterator[FilledDashboard]:
    """Leagues that are embedded and indexed, dead letters, relationships, and batches."""
    harness = PineconeHarness(vectors_server, dimensions=1536)
    harness.wipe()  # others may have left indexes of another length
    harness.close()
    with psycopg.connect(postgres.url, autocommit=True) as conn:
        conn.execute("CREATE DATABASE page TEMPLATE migrated")
    url = f"{postgres.url.rsplit('/', 1)[0]}/page"
    pg = DatabaseFixture(url)
    pg.conn.execute(
        "UPDATE sink_state SET config = jsonb_build_object('model', %s::text, 'dimensions', 1536) "
        "WHERE sink = 'embedding'",
        (EMBEDDING_MODEL,),
    )
    objectives = {"altsync_freshness_slo": "neo4j=5s,pinecone=1h"}
    app = Application(settings_for(url, **local_services(vectors_server), **objectives))
    app.set_up_sinks()
    fill(pg, app, url)
    with serving(app) as site:
        yield FilledDashboard(site, pg)
    app.close()
    pg.close()


def fill(pg: DatabaseFixture, app: Application, url: str) -> None:
    """Deliver for real, but for the graph; then give up on some of it."""
    pg.save(*LEAGUES, archetype("racing"), archetype("team_sport"), example("ask"))
    database = Database(url)
    deliver(database, FakeGraph())
    database.close()
    for sink in ("embedding", "pinecone"):
        app.deliver(sink)
    pg.save(
        replace(LEAGUES[3], location="Italy, changed"), league(NASTY), league("other", tier="TIER3")
    )
    dead_letter(pg, {"serie_a": "the node is locked", "other": "the node is locked", NASTY: NASTY})
    for minute in range(0, 50, 7):
        record(pg, "neo4j", minute * 60, synced=20 + minute, calls=3)
        record(pg, "embedding", minute * 60, synced=5, calls=1, tokens=400)
    for source, target, kind, score in (
        ("formula_1", "f1_academy", "SIMILAR_TO", 0.91),
        ("dtm", "formula_1", "COMPETES_WITH", 0.61),
        ("f1_academy", "dtm", "SAME_ARCHETYPE", 0.5),
    ):
        relate(pg, source, target, kind, score)


def go(page: Page, view: str) -> None:
    """Open a view by its address."""
    page.evaluate("hash => { location.hash = hash; }", f"#/{view}")
    expect(page.locator(f"#view-{view.split('/', maxsplit=1)[0]}")).to_be_visible()


def test_the_overview_shows_how_everything_stands(
    dashboard: FilledDashboard, browser: Browser
) -> None:
    """Matrix, totals, sinks and the plot, and it follows the database by itself."""
    with page_of(browser, dashboard.url) as page:
        expect(page.locator("#matrix td").nth(0)).to_have_text("7")
        page.select_option("#matrix-kind", "league")
        expect(page.locator("#matrix td").nth(0)).to_have_text("4")
        graph = page.locator("[data-sink=neo4j]")
        expect(graph.locator(".badge")).to_have_text("disabled")
        expect(graph).to_contain_text("NEO4J_URI is not set")
        assert page.locator("#plot svg rect.f1").count() >= 7
        expect(page.locator("#plot .legend")).to_contain_text("neo4j")
        page.select_option("#plot-measure", "tokens")
        expect(page.locator("#plot .legend")).to_contain_text("embedding 3,")
        before = page.locator("#matrix td").nth(0)
        dashboard.pg.conn.execute(
            "UPDATE league SET neo4j_sync_status = 'failed' WHERE league_tag = 'dtm'"
        )
        expect(before).to_have_text("3", timeout=TIMEOUT)
        dashboard.pg.conn.execute(
            "UPDATE league SET neo4j_sync_status = 'synced' WHERE league_tag = 'dtm'"
        )


def test_freshness_with_its_objective(dashboard: FilledDashboard, browser: Browser) -> None:
    """Percentiles and shares; a change that waits for too long shows without a reload."""
    with page_of(browser, dashboard.url) as page:
        index = page.locator("[data-fresh=pinecone]")
        expect(index.locator("[data-label=Met] .badge")).to_have_text("100.00%")
        expect(index.locator("[data-label=Met] .badge")).to_have_attribute("data-tone", "good")
        expect(index.locator("[data-label=Objective]")).to_have_text("3600 s")
        embedding = page.locator("[data-fresh=embedding]")
        expect(embedding.locator("[data-label=Met]")).to_have_text("–")
        expect(index.locator("[data-label=Overdue]")).to_have_text("0")
        late = "UPDATE sync_operation SET changed_at = changed_at {} interval '2 hours' "
        late += "WHERE finished_at IS NULL AND sink = 'embedding'"
        dashboard.pg.conn.execute(late.format("-"))
        expect(index.locator("[data-label=Overdue] .badge")).to_have_attribute("data-tone", "bad")
        expect(index.locator("[data-label=Met] .badge")).to_have_attribute("data-tone", "bad")
        dashboard.pg.conn.execute(late.format("+"))


@pytest.mark.parametrize(
    ("cap", "tone", "text"),
    [
        (None, None, "ALTSYNC_MAX_COST_PER_DAY sets a cap"),
        ("5", "good", "is not made"),
        ("0.000001", "bad", "The cap is reached"),
    ],
)
def test_the_cost_of_the_day_beside_its_cap(
    dashboard: FilledDashboard,
    browser: Browser,
    monkeypatch: pytest.MonkeyPatch,
    cap: str | None,
    tone: str | None,
    text: str,
) -> None:
    settings = dashboard.site.app.settings
    monkeypatch.setattr(settings, "altsync_max_cost_per_day", cap and Decimal(cap))
    with page_of(browser, dashboard.url) as page:
        costs = page.locator("#costs")
        expect(costs).to_contain_text(text)
        expect(costs.locator("tbody tr", has_text="pinecone")).to_contain_text("embedding")
        assert costs.locator(".budget").count() == (cap is not None)
        if tone:
            expect(costs.locator(".budget")).to_have_attribute("data-tone", tone)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 360)])
def test_the_models_and_their_progress(
    dashboard: FilledDashboard, browser: Browser, scheme: str, width: int
) -> None:
    app = dashboard.site.app
    with page_of(browser, dashboard.url) as page:
        expect(page.locator("#models-card")).to_be_hidden()
    with app.database.transaction() as conn:
        state.begin(conn, app.topology, Model("other", 8), requests=None, tokens=None)
    list(state.fill(app.database, app.topology))
    try:
        with page_of(browser, dashboard.url) as page:
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.set_viewport_size({"width": width, "height": 800})
            models = page.locator("#models")
            expect(models).to_contain_text("other (8 dimensions)")
            expect(models.locator("tbody tr", has_text="embedding")).to_contain_text(" / ")
            expect(page.locator("#models-state")).to_have_text("filling")
            wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
            assert not page.evaluate(wide)
    finally:
        state.begin_drop(app.database, app.topology, 0.0)
        with app.database.transaction() as conn:
            state.end_drop(conn, app.topology)


def test_keys_are_text_and_never_html(dashboard: FilledDashboard, browser: Browser) -> None:
    """In dead letters, operations and the entity view."""
    with page_of(browser, dashboard.url) as page:
        expect(page.locator("#failures")).to_contain_text(NASTY)
        go(page, "operations")
        page.fill("#operations-form [name=key]", NASTY)
        page.press("#operations-form [name=key]", "Enter")
        expect(page.locator("#operations tbody tr").first).to_contain_text(NASTY)
        page.locator("#operations a").first.click()
        expect(page.locator("#title-entity")).to_contain_text(NASTY)
        assert page.locator("main img").count() == 0
        assert "owned" not in page.title().replace(NASTY, "")


def test_a_dead_letter_is_tried_again_and_the_page_says_so(
    dashboard: FilledDashboard, browser: Browser
) -> None:
    """One entity first, then the rest of its group."""
    with page_of(browser, dashboard.url) as page:
        group = page.locator(".failure", has_text="the node is locked")
        expect(group.locator(".count")).to_have_text("2")
        group.get_by_role("button", name="Retry other in neo4j").click()
        result = page.locator("#retry-result")
        expect(result).to_have_text("neo4j, other: 1 dead operation was enqueued again.")
        expect(group.locator(".count")).to_have_text("1")
        group.get_by_role("button", name="Retry all 1 of neo4j").click()
        expect(group).to_have_count(0)
        expect(result).to_contain_text("1 dead operation was enqueued again")
        assert dashboard.pg.last("neo4j", "other").origin == "retry"
        assert dashboard.pg.last("neo4j", "serie_a").status == "pending"


def test_operations_by_filter(dashboard: FilledDashboard, browser: Browser) -> None:
    """Sink, status and key narrow each other; clearing shows all."""
    with page_of(browser, f"{dashboard.url}#/operations") as page:
        rows = page.locator("#operations tbody tr")
        everything = rows.count()
        page.select_option("#operations-form [name=sink]", "embedding")
        page.select_option("#operations-form [name=status]", "synced")
        expect(rows).to_have_count(8)
        page.fill("#operations-form [name=key]", "dtm")
        page.press("#operations-form [name=key]", "Enter")
        expect(rows).to_have_count(1)
        page.get_by_role("button", name="Clear").click()
        expect(rows).to_have_count(everything)


def test_an_entity_in_every_store(dashboard: FilledDashboard, browser: Browser) -> None:
    """PostgreSQL's view, and what the index holds now."""
    with page_of(browser, dashboard.url) as page:
        page.fill("#jump-key", "formula_1")
        page.press("#jump-key", "Enter")
        expect(page.locator("#title-entity")).to_have_text("Formula 1")
        version = str(dashboard.pg.version(LEAGUES[0]))
        index = page.locator("#entity tr", has=page.locator("th", has_text="pinecone"))
        expect(index).to_contain_text("agrees")
        expect(index.locator("td[data-label='Held now']")).to_have_text(version)
        expect(page.locator("#entity")).to_contain_text("The fastest single-seater racing cars.")
        history = page.locator("#entity tbody").last.locator("tr")
        expect(history).to_have_count(len(dashboard.pg.ops(key="formula_1")))


def test_search_with_filters(dashboard: FilledDashboard, browser: Browser) -> None:
    """The best first, with scores; filters leave the others out."""
    with page_of(browser, f"{dashboard.url}#/search") as page:
        expect(page.locator("[name=sport_archetype] option")).to_have_count(3)
        page.fill("#search-form [name=text]", "single-seater racing cars")
        page.press("#search-form [name=text]", "Enter")
        rows = page.locator("#search-results tbody tr")
        expect(rows.first).to_contain_text("formula_1")
        scores = [float(text) for text in page.locator("#search-results .mono").all_inner_texts()]
        assert len(scores) == 5
        assert scores == sorted(scores, reverse=True)
        page.select_option("#search-form [name=sport_archetype]", "team_sport")
        page.select_option("#search-form [name=status]", "inactive")
        page.get_by_role("button", name="Search").click()
        expect(rows).to_have_count(1)
        expect(rows).to_contain_text("serie_b")


def test_the_graph_is_walked_by_clicks(dashboard: FilledDashboard, browser: Browser) -> None:
    """A click on a node draws what is around that one; kinds can be left out."""
    with page_of(browser, f"{dashboard.url}#/graph/league/formula_1") as page:
        nodes = page.locator("#graph svg a")
        expect(nodes).to_have_count(2)
        expect(page.locator("#graph svg path")).to_have_count(3)
        page.get_by_label("Competes with").uncheck()
        expect(nodes).to_have_count(1)
        page.get_by_label("Competes with").check()
        nodes.filter(has_text="DTM").click()
        expect(page.locator("#graph .centre")).to_contain_text("DTM")
        assert page.url.endswith("#/graph/league/dtm")
        page.go_back()
        expect(page.locator("#graph .centre")).to_contain_text("Formula 1")


def test_light_and_dark(dashboard: FilledDashboard, browser: Browser) -> None:
    """As the system prefers, until the user chooses; the choice is kept."""

    def brightness(page: Page) -> float:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour[4:-1].split(",")) / 765

    with page_of(browser, dashboard.url, dark=True) as page:
        assert brightness(page) < 0.3
        button = page.locator("#theme")
        button.click()
        expect(button).to_have_text("Theme: light")
        assert brightness(page) > 0.8
        page.reload()
        expect(button).to_have_text("Theme: light")
        assert brightness(page) > 0.8
        button.click()
        expect(button).to_have_text("Theme: dark")
    with page_of(browser, dashboard.url) as page:
        assert brightness(page) > 0.8


def test_a_phone_needs_no_sideways_scrolling(dashboard: FilledDashboard, browser: Browser) -> None:
    """In any view, 360 pixels wide."""
    with page_of(browser, dashboard.url, width=360) as page:
        for view in VIEWS:
            go(page, view)
            page.locator(f"#view-{view.split('/')[0]} .card").first.wait_for()
            if view == "search":
                page.fill("#search-form [name=text]", "cars")
                page.get_by_role("button", name="Search").click()
                page.locator("#search-results tbody tr").first.wait_for()
            if view.startswith("graph"):
                page.locator("#graph svg a").first.wait_for()
            if view.startswith("entity"):
                page.locator("#entity .badge", has_text="agrees").first.wait_for()
            beyond = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert beyond <= 0, view


def test_the_keyboard_is_enough(dashboard: FilledDashboard, browser: Browser) -> None:
    """Skip link first, a visible focus, every control named, views by Enter, focus on the view."""
    with page_of(browser, dashboard.url) as page:
        page.keyboard.press("Tab")
        expect(page.locator(".skip")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#main")).to_be_focused()
        expect(page.locator("#view-overview")).to_be_visible()
        page.reload()
        page.wait_for_selector("#pulse[data-state=live]")
        for _ in range(4):
            page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Operations")).to_be_focused()
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert outline == "3px"
        page.keyboard.press("Enter")
        expect(page.locator("#title-operations")).to_be_focused()
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll('input, select, button, a, svg[tabindex]')]
                 .filter(one => !one.labels?.length && !one.getAttribute('aria-label')
                                && !one.textContent.trim()).map(one => one.outerHTML)"""
        )
        assert unnamed == []


def test_the_focus_stays_where_it_is_while_the_page_follows(
    dashboard: FilledDashboard, browser: Browser
) -> None:
    """A button that is redrawn during a click keeps the focus; the plot has a cursor."""
    with page_of(browser, dashboard.url) as page:
        button = page.locator(".failure button.retry").first
        button.focus()
        group = button.get_attribute("data-focus")
        dead_letter_again(dashboard.pg)
        expect(page.locator(".failure", has_text="once more")).to_have_count(1)
        assert page.evaluate("document.activeElement.dataset.focus") == group
        page.locator("#plot svg").focus()
        page.keyboard.press("End")
        expect(page.locator("#plot output")).to_contain_text(":")
        page.keyboard.press("Home")
        expect(page.locator("#plot output")).to_contain_text("nothing")


@pytest.mark.parametrize(
    ("consistent", "result", "word", "note"),
    [
        (True, {}, "agree", "9 entities"),
        (True, {"in_progress": 3}, "no drift", "3 in progress"),
        (False, {"sinks": {"neo4j": {"stale": 2}}}, "differ", "9 entities"),
        (False, {"problems": {"neo4j": "away"}}, "could not tell", "not compared: neo4j"),
        (
            False,
            {"problems": {"neo4j": "away"}, "sinks": {"pinecone": {"missing": 1}}},
            "differ",
            "not compared: neo4j",
        ),
    ],
)
def test_what_the_last_comparison_said(
    dashboard: FilledDashboard,
    browser: Browser,
    consistent: bool,
    result: dict[str, object],
    word: str,
    note: str,
) -> None:
    """Records that were not compared are no difference, and those in progress no agreement."""
    save_verification(
        dashboard.pg.conn, seconds=1.0, consistent=consistent, result={"entities": 9, **result}
    )
    with page_of(browser, dashboard.url) as page:
        figure = page.locator("#figures .figure", has_text="Verified")
        expect(figure.locator(".big")).to_have_text(word)
        expect(figure.locator(".note")).to_contain_text(note)


def dead_letter_again(pg: DatabaseFixture) -> None:
    """One more dead letter of its own."""
    pg.save(league("dtm", description="again"))
    dead_letter(pg, {"dtm": "once more"})


def test_a_dashboard_that_is_gone_is_said(dashboard: FilledDashboard, browser: Browser) -> None:
    """And the page goes on by itself when it is back."""
    with page_of(browser, dashboard.url, expected="503 (Service Unavailable)") as page:
        page.route("**/api/**", lambda route: route.fulfill(status=503, json={"error": "away"}))
        expect(page.locator("#trouble")).to_have_text("away")
        expect(page.locator("#pulse")).to_have_attribute("data-state", "lost")
        page.unroute("**/api/**")
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.locator("#pulse")).to_have_attribute("data-state", "live")
        expect(page.locator("#trouble")).to_be_hidden()


def test_a_sink_is_paused_and_resumed(dashboard: FilledDashboard, browser: Browser) -> None:
    """The reason is asked for and shown; Cancel pauses nothing; resuming is confirmed."""
    with page_of(browser, dashboard.url) as page:
        sink = page.locator("[data-sink=pinecone]")
        page.once("dialog", lambda dialog: dialog.dismiss())
        page.get_by_role("button", name="Pause pinecone").click()
        expect(page.locator("#sinks-result")).to_be_hidden()
        page.once("dialog", lambda dialog: dialog.accept("the index is moved"))
        page.get_by_role("button", name="Pause pinecone").click()
        expect(sink.locator(".badge")).to_have_text("paused")
        expect(sink.locator(".why")).to_contain_text("the index is moved (dashboard@")
        expect(page.locator("#sinks-result")).to_contain_text("pinecone is paused")
        page.once("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Resume pinecone").click()
        expect(sink.locator(".badge")).to_have_text("ready")
        expect(page.locator("#sinks-result")).to_contain_text("pinecone is resumed")


def test_dead_letters_are_discarded(dashboard: FilledDashboard, browser: Browser) -> None:
    """Only when it is said why; then they are found among the operations, with who and why."""
    dashboard.pg.save(league("f1_academy", description="hopeless"))
    dead_letter(dashboard.pg, {"f1_academy": "no room for 17 nodes"})
    with page_of(browser, dashboard.url) as page:
        group = page.locator(".failure", has_text="no room for 17 nodes")
        button = group.get_by_role("button", name="Discard all 1 of neo4j")
        page.once("dialog", lambda dialog: dialog.accept("  "))
        button.click()
        expect(page.locator("#retry-result")).to_be_hidden()
        page.once("dialog", lambda dialog: dialog.accept("it will never fit"))
        button.click()
        expect(page.locator("#retry-result")).to_contain_text("1 dead operation was discarded")
        expect(group).to_have_count(0)
        go(page, "operations")
        page.select_option("#operations-form [name=status]", "discarded")
        expect(page.locator("#operations tbody tr")).to_have_count(1)
        expect(page.locator("#operations tbody tr")).to_contain_text("it will never fit")
