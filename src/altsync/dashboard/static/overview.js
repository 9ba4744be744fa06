// The first view: figures, matrix, totals, sinks, throughput, dead letters.
import { get, post } from "./api.js";
import { drawCosts } from "./costs.js";
import { $, TONES, age, badge, count, fill, h, moment, options, plural, whenChanged, word } from "./dom.js";
import { drawFailures, press } from "./failures.js";
import { drawModels } from "./models.js";
import { MEASURES, Plot } from "./plot.js";
import { mirrorNames, mirrorTitle } from "./types.js";

const STATES = ["synced", "pending", "failed"];
// Ways in which a sink may differ: the names in the result of a comparison.
const KINDS = ["missing", "stale", "orphan", "ahead", "wrong_model", "wrong_namespace"];
const SPANS = ["15m", "1h", "6h", "24h", "7d"];

let plot, latest, series;
let span = "1h";

export function start() {
  plot = new Plot($("plot"));
  fill($("plot-measure"), Object.entries(MEASURES).map(([name, title]) => h("option", { value: name }, title)));
  $("plot-measure").addEventListener("change", drawPlot);
  $("matrix-kind").addEventListener("change", () => drawMatrix(latest.matrix, $("matrix-kind").value, axes(latest)));
  $("plot-window").append(...SPANS.map((name) => h("label", {},
    h("input", { type: "radio", name: "span", value: name, checked: name === span, onchange: async () => { span = name; await loadPlot(); } }),
    h("span", {}, name))));
}

export async function refresh() {
  const [overview, failures] = await Promise.all([get("overview"), get("failures"), loadPlot()]);
  latest = overview;
  if ($("matrix-kind").options.length === 0) options($("matrix-kind"), Object.keys(overview.entities), "all types");
  drawFigures(overview);
  drawMatrix(overview.matrix, $("matrix-kind").value, axes(overview));
  drawTotals(overview.entities);
  drawSinks(overview);
  drawFreshness(overview.freshness);
  drawCosts(overview.costs);
  drawModels(overview.models);
  drawFailures(failures);
}

async function loadPlot() {
  series = await get("throughput", { window: span });
  drawPlot();
}

function drawPlot() {
  if (series) plot.show(series, $("plot-measure").value);
}

function drawFigures({ entities, matrix, operations, sinks, at_rest: atRest, verify: verified }) {
  const total = Object.values(entities).reduce((sum, one) => sum + one.total, 0);
  const agreed = matrix.filter((r) => Object.entries(r).every(([name, said]) => !name.endsWith("_sync_status") || said === "synced")).reduce((sum, r) => sum + r.count, 0);
  const all = Object.values(operations);
  const waiting = all.reduce((sum, one) => sum + one.pending + one.in_progress, 0);
  const dead = all.reduce((sum, one) => sum + one.dead, 0);
  const oldest = Math.max(...all.map((one) => one.oldest_pending_seconds ?? -1));
  const stopped = Object.entries(sinks).filter(([, s]) => s.state !== "closed").map(([name, s]) => `${name} ${word(s.state)}`);
  const share = total ? (agreed === total ? "100%" : `${Math.min(99.9, (100 * agreed) / total).toFixed(1)}%`) : "–";
  const figure = (title, big, note, tone) => h("dl", { class: "figure", "data-tone": tone }, h("dt", {}, title), h("dd", { class: "big" }, big), h("dd", { class: "note" }, note));
  fill($("figures"),
    figure("In every store", share, total ? `${count(agreed)} of ${plural(total, "entity", "entities")}` : "nothing is seeded yet", !total ? null : agreed === total ? "good" : dead ? "bad" : "wait"),
    figure("Pending", count(waiting), waiting ? `oldest ${age(oldest < 0 ? null : oldest)}` : "no pending operation", waiting ? "wait" : null),
    figure("Dead", count(dead), dead ? "listed below" : "no dead operation", dead ? "bad" : null),
    figure("Sinks", `${Object.keys(sinks).length - stopped.length}/${Object.keys(sinks).length}`, stopped.length ? stopped.join(", ") : atRest ? "all ready, at rest" : "all ready", stopped.length ? "bad" : "good"),
    verified && figure("Verified", ...lastVerified(verified)));
}

// A sink that could not be compared does not differ. An entity in progress does not agree yet.
function lastVerified({ age: seconds, consistent, result }) {
  const differs = Object.values(result.sinks ?? {}).some((sink) => KINDS.some((kind) => sink[kind]));
  const waiting = result.in_progress ?? 0;
  const notes = [`${age(seconds)} ago`, plural(result.entities, "entity", "entities")];
  const problems = Object.keys(result.problems ?? {});
  if (problems.length) notes.push(`not compared: ${problems.join(", ")}`);
  if (waiting) notes.push(`${count(waiting)} in progress`);
  const [said, tone] = consistent ? [waiting ? "no drift" : "agree", waiting ? "wait" : "good"] : differs ? ["differ", "bad"] : ["could not tell", "wait"];
  return [said, notes.join(", "), tone];
}

// The first mirror by row and the second by column. A third one is among the totals; one alone is a row.
function axes({ sinks }) {
  const [rows, columns] = mirrorNames().filter((name) => name in sinks);
  return columns ? { rows, columns } : { columns: rows };
}

const drawMatrix = whenChanged((matrix, kind, { rows, columns }) => {
  const is = (r, sink, state) => !sink || r[`${sink}_sync_status`] === state;
  const sum = (row, column) => matrix.filter((r) => is(r, rows, row) && is(r, columns, column) && (!kind || r.entity === kind)).reduce((s, r) => s + r.count, 0);
  const tone = (...said) => (said.includes("failed") ? "bad" : said.includes("pending") ? "wait" : "good");
  const caption = rows ? `Entities by their status in ${mirrorTitle(rows)} (rows) and in ${mirrorTitle(columns)} (columns)` : `Entities by their status in ${mirrorTitle(columns)}`;
  fill($("matrix"), columns && h("table", { class: "matrix" },
    h("caption", { class: "unseen" }, caption),
    h("thead", {},
      h("tr", {}, h("th", { class: "axis" }, ""), h("th", { class: "axis", colspan: 3, scope: "colgroup" }, `${mirrorTitle(columns)} →`)),
      h("tr", {}, h("th", { class: "axis" }, rows ? `${mirrorTitle(rows)} ↓` : ""), STATES.map((s) => h("th", { scope: "col" }, s)))),
    h("tbody", {}, (rows ? STATES : [""]).map((row) => h("tr", {}, h("th", { scope: "row" }, row),
      STATES.map((column) => {
        const n = sum(row, column);
        return h("td", {}, h("span", { class: "cell", "data-tone": n ? tone(row, column) : null }, count(n)));
      }))))));
});

function split(counts, total) {
  const shown = STATES.filter((s) => counts[s] || s === "synced");
  const stripe = h("span", { class: "stripe", "aria-hidden": "true" }, STATES.map((s) => {
    const part = h("i", { class: s });
    part.style.width = `${total ? (100 * counts[s]) / total : 0}%`;
    return part;
  }));
  return h("span", { class: "split" },
    h("span", { class: "numbers" }, shown.map((s) => h("span", { class: counts[s] ? `t-${s}` : "t-none", title: s }, count(counts[s]), h("span", { class: "unseen" }, ` ${s}`)))), stripe);
}

const drawTotals = whenChanged((entities) => {
  const sinks = Object.keys(Object.values(entities)[0]).filter((name) => name !== "total");
  fill($("totals"), h("table", { class: "stack totals" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Entity"), h("th", { scope: "col", class: "num" }, "Total"), sinks.map((s) => h("th", { scope: "col" }, s)))),
    h("tbody", {}, Object.entries(entities).map(([kind, entity]) => h("tr", {},
      h("th", { scope: "row", "data-label": "Entity" }, word(kind)),
      h("td", { class: "num", "data-label": "Total" }, count(entity.total)),
      sinks.map((s) => h("td", { "data-label": s }, split(entity[s], entity.total))))))));
});

// Ages in seconds, as the command line has them.
const seconds = (value) => (value === null || value === undefined ? "–" : value < 10 ? value.toFixed(2) : count(Math.round(value)));

const drawFreshness = whenChanged((freshness) => {
  const sinks = Object.entries(freshness);
  const cell = (label, value, tone) => h("td", { class: "num", "data-label": label }, tone ? h("span", { class: "badge", "data-tone": tone }, value) : value);
  const met = (one) => (one.share === null ? "–" : `${(100 * one.share).toFixed(2)}%`);
  const tone = (one) => (one.objective === null ? null : one.alerting ? "bad" : one.share !== null && one.share < one.target ? "wait" : "good");
  fill($("freshness"), sinks.length === 0
    ? h("p", { class: "dim" }, "No change was confirmed yet, and no sink has an objective (ALTSYNC_FRESHNESS_SLO).")
    : h("table", { class: "stack" },
      h("caption", { class: "unseen" }, "Age of changes by sink"),
      h("thead", {}, h("tr", {}, ["Sink", "Changes", "p50", "p95", "p99", "Objective", "Met", "Burn 1 h", "Burn 6 h", "Overdue"].map((name, place) => h("th", { scope: "col", class: place ? "num" : null }, name)))),
      h("tbody", {}, sinks.map(([name, one]) => h("tr", { "data-fresh": name },
        h("th", { scope: "row", "data-label": "Sink" }, name),
        cell("Changes", count(one.changes)),
        cell("p50", seconds(one.p50)), cell("p95", seconds(one.p95)), cell("p99", seconds(one.p99)),
        cell("Objective", one.objective === null ? "–" : `${one.objective} s`),
        cell("Met", met(one), tone(one)),
        cell("Burn 1 h", one.burn ? one.burn["1h"].toFixed(1) : "–"),
        cell("Burn 6 h", one.burn ? one.burn["6h"].toFixed(1) : "–"),
        cell("Overdue", count(one.overdue), one.overdue ? "bad" : null))))));
});

function drawSinks({ sinks, operations }) {
  fill($("sinks"), Object.entries(sinks).map(([name, sink], place) => {
    const backlog = operations[name];
    const minute = sink.last_minute;
    const fact = (title, value, tone) => h("div", {}, h("dt", {}, title), h("dd", { "data-tone": tone }, value));
    const tone = sink.state === "disabled" ? null : TONES[sink.state];
    const why = [sink.reason, sink.since && sink.state !== "closed" && [sink.reason ? " · since " : "since ", moment(sink.since)]].filter(Boolean);
    return h("article", { class: `card sink k${place % 6}`, "data-tone": tone, "data-sink": name, "aria-label": `Sink ${name}` },
      h("div", { class: "head" }, h("h3", {}, name), badge(sink.state), sink.state === "paused"
        ? h("button", { type: "button", class: "small", "data-focus": `pause ${name}`, "aria-label": `Resume ${name}`, onclick: (event) => resume(event.currentTarget, name, backlog.pending) }, "Resume")
        : h("button", { type: "button", class: "quiet small", "data-focus": `pause ${name}`, "aria-label": `Pause ${name}`, onclick: (event) => pause(event.currentTarget, name) }, "Pause…")),
      h("p", { class: "why" }, why.length ? why : sink.last_claim_at ? ["delivering; last claim ", moment(sink.last_claim_at)] : "no worker has asked yet"),
      h("dl", { class: "facts" },
        fact("Pending", count(backlog.pending), backlog.pending ? "wait" : null),
        fact("In progress", count(backlog.in_progress)),
        fact("Dead", count(backlog.dead), backlog.dead ? "bad" : null),
        fact("Lag", age(backlog.oldest_pending_seconds)),
        fact("Synced/min", count(minute.synced)),
        name === "embedding" ? fact("Tokens/min", count(minute.tokens)) : fact("Calls/min", count(minute.remote_calls))));
  }));
}

// Asks for the reason, which is shown until the sink is resumed; none is fine, Cancel pauses nothing.
function pause(button, name) {
  const reason = prompt(`Pause ${name}? Its operations stay pending until it is resumed. Reason:`);
  if (reason === null) return;
  press(button, $("sinks-result"), `${name}: not paused`, async () => {
    const { paused } = await post("pause", { sink: name, reason });
    return paused ? `${name} is paused. Running batches are still settled.` : `${name} was paused already.`;
  });
}

function resume(button, name, pending) {
  if (!confirm(`Resume ${name}? ${pending ? `${plural(pending, "operation")} will be delivered.` : "It has no pending operation."}`)) return;
  press(button, $("sinks-result"), `${name}: not resumed`, async () => {
    const { resumed } = await post("resume", { sink: name });
    return resumed ? `${name} is resumed.` : `${name} was not paused.`;
  });
}
