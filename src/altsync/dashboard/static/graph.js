// A league and those around it: the nearer, the stronger.
import { get } from "./api.js";
import { $, announce, empty, entityLink, fill, h, plural, svg, table } from "./dom.js";

const KINDS = { SIMILAR_TO: "similar", COMPETES_WITH: "competes", SAME_ARCHETYPE: "same archetype" };

//: Pixels below which labels would write over each other: nodes carry numbers alone then.
const ROOM_FOR_LABELS = 620;

let found = null;
let tag = null;

export function start() {
  $("graph-kinds").append(...Object.entries(KINDS).map(([kind, title]) => h("label", {},
    h("input", { type: "checkbox", name: kind, checked: true, onchange: draw }), h("span", { class: `line ${kind}` }), h("span", {}, title))));
  $("graph-form").addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = `#/graph/${encodeURIComponent($("graph-form").elements.league.value.trim())}`;
  });
  new ResizeObserver(() => draw()).observe($("graph"));
  hint();
}

function hint() {
  fill($("graph"), h("div", { class: "full" }, empty("Name a league", "Its tag is its key in every store, such as formula_1. Search and the entity view lead here as well.")));
}

export async function open(wanted) {
  tag = wanted;
  if (!wanted) { found = null; $("graph-note").textContent = ""; hint(); return; }
  $("graph-form").elements.league.value = wanted;
  try {
    found = await get("graph", { league: wanted });
  } catch (error) {
    found = null;
    $("graph-note").textContent = error.message;
    fill($("graph"));
    return;
  }
  $("graph-note").textContent = "";
  draw();
  announce(`${found.centre.name}: ${plural(found.neighbours.length, "league")} around it`);
}

function draw() {
  if (!found || !$("graph").clientWidth) return;
  const on = new Set(Object.keys(KINDS).filter((kind) => $("graph-kinds").elements[kind].checked));
  const edges = found.edges.filter((edge) => on.has(edge.kind));
  const strongest = new Map();
  for (const { source, target, score } of edges) {
    const other = source === found.centre.tag ? target : target === found.centre.tag ? source : null;
    if (other) strongest.set(other, Math.max(strongest.get(other) ?? 0, score ?? 0));
  }
  const near = found.neighbours.filter((one) => strongest.has(one.tag)).sort((a, b) => strongest.get(b.tag) - strongest.get(a.tag));
  if (!near.length) {
    fill($("graph"), h("div", {}, empty(`${found.centre.name} stands alone`, "No relationship of these kinds is stored for it. They are computed after leagues are embedded.")));
    return;
  }
  const box = h("div", {});
  const list = h("div", {}, neighbourTable(near, edges));
  fill($("graph"), box, list);
  box.append(picture(near, edges, strongest, box.clientWidth));
}

function picture(near, edges, strongest, width) {
  const labels = width >= ROOM_FOR_LABELS;
  const height = labels ? 520 : Math.max(300, width);
  const middle = { x: width / 2, y: height / 2 };
  const reach = { x: labels ? width / 2 - 165 : width / 2 - 26, y: height / 2 - 34 };
  const scores = [...strongest.values()];
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  const archetypes = [...new Set([found.centre, ...near].map((one) => one.archetype))].sort();
  const places = new Map([[found.centre.tag, middle]]);
  near.forEach((one, i) => {
    const far = high > low ? (high - strongest.get(one.tag)) / (high - low) : 0.5;
    const stretch = 0.58 + 0.42 * far;
    // Strong ones alternate around the circle, so that they do not crowd on one side.
    const turn = ((i * 7) % near.length || 0);
    const unique = gcd(7, near.length) === 1 ? turn : i;
    const angle = (2 * Math.PI * (unique + 0.5)) / near.length - Math.PI / 2;
    places.set(one.tag, { x: middle.x + reach.x * stretch * Math.cos(angle), y: middle.y + reach.y * stretch * Math.sin(angle), angle });
  });
  const bend = { SIMILAR_TO: 0, COMPETES_WITH: 16, SAME_ARCHETYPE: -16 };
  const drawn = new Set();
  const lines = [...edges].sort((a, b) => own(a) - own(b)).map((edge) => {
    const pair = [edge.source, edge.target].sort().join("\n") + edge.kind;
    const [a, b] = [places.get(edge.source), places.get(edge.target)];
    if (!a || !b || drawn.has(pair)) return null;
    drawn.add(pair);
    const length = Math.hypot(b.x - a.x, b.y - a.y) || 1;
    const [nx, ny] = [(-(b.y - a.y) / length) * bend[edge.kind], ((b.x - a.x) / length) * bend[edge.kind]];
    return svg("path", {
      class: `edge ${edge.kind} ${own(edge) ? "" : "faint"}`, "stroke-width": (1 + 3 * (edge.score ?? 0.3)).toFixed(1),
      d: `M${a.x.toFixed(1)} ${a.y.toFixed(1)}Q${((a.x + b.x) / 2 + nx).toFixed(1)} ${((a.y + b.y) / 2 + ny).toFixed(1)} ${b.x.toFixed(1)} ${b.y.toFixed(1)}`,
    }, svg("title", {}, `${edge.source} ${edge.kind} ${edge.target}${edge.score === null ? "" : ` ${edge.score.toFixed(3)}`}`));
  });
  const colour = (one) => `f${archetypes.indexOf(one.archetype) % 6}`;
  const nodes = near.map((one, i) => {
    const at = places.get(one.tag);
    const side = Math.cos(at.angle) > 0.25 ? "start" : Math.cos(at.angle) < -0.25 ? "end" : "middle";
    const dx = side === "start" ? 15 : side === "end" ? -15 : 0;
    const dy = side === "middle" ? (Math.sin(at.angle) > 0 ? 26 : -17) : 4;
    return svg("a", { href: `#/graph/${encodeURIComponent(one.tag)}`, "data-focus": `node ${one.tag}`, "aria-label": `${one.name}, ${strongest.get(one.tag).toFixed(3)}: draw the graph around it` },
      svg("circle", { class: colour(one), cx: at.x, cy: at.y, r: 11 }),
      svg("text", { class: "inside", x: at.x, y: at.y }, String(i + 1)),
      labels && svg("text", { x: at.x + dx, y: at.y + dy, "text-anchor": side }, cut(one.name, 24)));
  });
  const centre = svg("g", { class: "centre" }, svg("circle", { class: colour(found.centre), cx: middle.x, cy: middle.y, r: 16 }),
    svg("text", { x: middle.x, y: middle.y + 34, "text-anchor": "middle" }, cut(found.centre.name, labels ? 34 : 22)));
  return h("div", {},
    svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "group", "aria-label": `Leagues around ${found.centre.name}` }, lines, nodes, centre),
    h("ul", { class: "legend", "aria-label": "Archetypes" }, archetypes.map((name, i) => h("li", { class: `c${i % 6}` }, name.replaceAll("_", " ")))));
}

const own = (edge) => (edge.source === tag || edge.target === tag ? 1 : 0);
const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
const gcd = (a, b) => (b ? gcd(b, a % b) : a);

function neighbourTable(near, edges) {
  return table([["#", "num"], "League", "Relationship", ["Score", "num"]], near.map((one, i) => {
    const mine = edges.filter((edge) => own(edge) && (edge.source === one.tag || edge.target === one.tag));
    const kinds = new Map();
    for (const { kind, score } of mine) kinds.set(kind, Math.max(kinds.get(kind) ?? 0, score ?? 0));
    return [String(i + 1), [entityLink("league", one.tag, `row ${one.tag}`), h("br"), h("span", { class: "dim" }, one.name)],
      [...kinds.keys()].map((kind, n) => [n ? h("br") : null, KINDS[kind] ?? kind]), [...kinds.values()].map((score, n) => [n ? h("br") : null, score ? score.toFixed(3) : "–"])];
  }));
}
