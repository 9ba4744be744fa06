// Views by the address' hash, the theme, and looking again every two seconds.
import { get } from "./api.js";
import { $, announce } from "./dom.js";
import * as entity from "./entity.js";
import * as graph from "./graph.js";
import * as operations from "./operations.js";
import * as overview from "./overview.js";
import * as search from "./search.js";
import { setSession } from "./types.js";

// Milliseconds between the end of one look and the next.
const EVERY = 2000;
const EVERY_WHEN_LOST = 5000;

const VIEWS = {
  overview: { title: "Overview", open: () => overview.refresh(), refresh: overview.refresh },
  operations: { title: "Operations", open: () => operations.refresh(), refresh: operations.refresh },
  entity: { title: "Entity", open: (kind, key) => entity.open(kind, key), refresh: entity.refresh },
  search: { title: "Search", open: () => search.open(), refresh: null },
  graph: { title: "Graph", open: (kind, key) => graph.open(kind, key), refresh: null },
};

let view = null;
let timer = null;
let busy = false;

function route() {
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/").map(decode);
  const known = name in VIEWS ? name : "overview";
  const first = view === null;
  view = known;
  for (const one of Object.keys(VIEWS)) $(`view-${one}`).hidden = one !== known;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === known) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${VIEWS[known].title} · altsync`;
  if (!first) {
    $(`title-${known}`).focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  look(() => VIEWS[known].open(...rest));
}

function decode(part) {
  try { return decodeURIComponent(part); } catch { return part; }
}

async function look(what) {
  clearTimeout(timer);
  const asked = view;
  busy = true;
  try {
    await what();
    if (asked === view) state("live", "live");
  } catch (error) {
    if (asked === view) state("lost", "no answer", error.message);
  }
  busy = false;
  if (asked === view) plan();
}

function plan() {
  clearTimeout(timer);
  const lost = $("pulse").dataset.state === "lost";
  const again = VIEWS[view].refresh;
  if (!again && !lost) return;
  // A hidden page rests until it is looked at again.
  timer = setTimeout(() => {
    if (!document.hidden) look(again ?? (() => get("session")));
  }, lost ? EVERY_WHEN_LOST : EVERY);
}

function state(name, text, trouble = "") {
  $("pulse").dataset.state = name;
  $("pulse-text").textContent = text;
  if ($("trouble").textContent !== trouble) $("trouble").textContent = trouble;
  $("trouble").hidden = !trouble;
}

const THEMES = ["auto", "light", "dark"];
function theme(chosen) {
  if (chosen === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  $("theme").textContent = `Theme: ${chosen}`;
  try { localStorage.setItem("altsync.theme", chosen); } catch { /* for this visit alone then */ }
}

function start(session) {
  setSession(session);
  $("version").textContent = `altsync ${session.version}`;
  overview.start();
  operations.start(session.sinks);
  search.start();
  graph.start();
  addEventListener("hashchange", (event) => {
    // The skip link is a hash, too, and no view.
    if (location.hash === "#main") {
      history.replaceState(null, "", new URL(event.oldURL).hash || "#/overview");
      $("main").focus();
    } else route();
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden && !busy) look(VIEWS[view].refresh ?? (() => get("session"))); });
  document.addEventListener("altsync:changed", () => { if (VIEWS[view].refresh) look(VIEWS[view].refresh); });
  $("jump").addEventListener("submit", (event) => {
    event.preventDefault();
    const key = $("jump-key").value.trim();
    if (key) location.hash = `#/entity//${encodeURIComponent(key)}`;
  });
  route();
}

$("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? "auto";
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  theme(next);
  announce(`Theme: ${next}`);
});
theme(document.documentElement.dataset.theme ?? "auto");

async function begin() {
  try {
    start(await get("session"));
  } catch (error) {
    state("lost", "no answer", error.message);
    setTimeout(begin, EVERY_WHEN_LOST);
  }
}
begin();
