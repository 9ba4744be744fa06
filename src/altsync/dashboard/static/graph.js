// An entity and those around it: the nearer, the stronger.
import { get } from "./api.js";
import { $, announce, empty, fill, h, plural, svg, table } from "./dom.js";
import { capital, firstType, relatedTypes, title, typeOf } from "./types.js";

//: Pixels below which labels would write over each other: nodes carry numbers alone then.
const ROOM_FOR_LABELS = 620;

let found = null;
let key = null;
let type = null;

// The look of the lines of a type's relationships, in the order of their declaration.
const look = (kind) => `k${type.relations.indexOf(kind) % 3}`;

export function start() {
  const form = $("graph-form");
  fill(form.elements.entity, relatedTypes().map((one) => h("option", { value: one.type }, one.one)));
  form.elements.entity.addEventListener("change", () => open(form.elements.entity.value));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = address(form.elements.entity.value, form.elements.key.value.trim());
  });
  new ResizeObserver(() => draw()).observe($("graph"));
}

const address = (kind, one) => `#/graph/${encodeURIComponent(kind)}/${encodeURIComponent(one)}`;

function hint() {
  fill($("graph"), h("div", { class: "full" }, empty(`Name ${article(type.one)}`, "Its key is the same in every store. Search and the entity view lead here as well.")));
}

const article = (noun) => `${/^[aeiou]/i.test(noun) ? "an" : "a"} ${noun}`;

function choose(kind) {
  if (type?.type === kind) return;
  type = typeOf(kind);
  $("graph-form").elements.entity.value = kind;
  fill($("graph-kinds"), h("legend", { class: "unseen" }, "Relationships"), type.relations.map((relation) => h("label", {},
    h("input", { type: "checkbox", name: relation, checked: true, onchange: draw }), h("span", { class: `line ${look(relation)}` }), h("span", {}, title(relation)))));
}

export async function open(kind, wanted) {
  found = null;
  key = wanted;
  $("graph-note").textContent = "";
  if (!relatedTypes().length) {
    fill($("graph"), h("div", { class: "full" }, empty("No relationships", "No entity of the catalogue declares Similar or Relationships.")));
    return;
  }
  choose(relatedTypes().some((one) => one.type === kind) ? kind : firstType());
  if (!wanted) { hint(); return; }
  $("graph-form").elements.key.value = wanted;
  try {
    found = await get("graph", { entity: type.type, key: wanted });
  } catch (error) {
    $("graph-note").textContent = error.message;
    fill($("graph"));
    return;
  }
  draw();
  announce(`${found.centre.name}: ${plural(found.neighbours.length, type.one, type.many)} around it`);
}

function draw() {
  if (!found || !$("graph").clientWidth) return;
  const on = new Set(type.relations.filter((kind) => $("graph-kinds").elements[kind].checked));
  const edges = found.edges.filter((edge) => on.has(edge.kind));
  const strongest = new Map();
  for (const { source, target, score } of edges) {
    const other = source === found.centre.key ? target : target === found.centre.key ? source : null;
    if (other) strongest.set(other, Math.max(strongest.get(other) ?? 0, score ?? 0));
  }
  const near = found.neighbours.filter((one) => strongest.has(one.key)).sort((a, b) => strongest.get(b.key) - strongest.get(a.key));
  if (!near.length) {
    fill($("graph"), h("div", { class: "full" }, empty(`${found.centre.name} stands alone`, "No relationship of these kinds is stored for it. Similarity is computed after entities are embedded.")));
    return;
  }
  const box = h("div", {});
  const list = h("div", {}, neighbourTable(near, edges));
  fill($("graph"), box, list);
  box.append(picture(near, edges, strongest, box.clientWidth));
}

// Half of them on either side, the strongest in the middle and near: so no label meets another.
function places(near, strongest, width, height, labels) {
  const scores = [...strongest.values()];
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  const reach = labels ? width / 2 - 205 : width / 2 - 26;
  const spots = new Map();
  for (const side of [1, -1]) {
    const members = near.filter((_, i) => (i % 2 === 0) === (side === 1));
    members.forEach((one, i) => {
      const step = Math.ceil(i / 2) * (i % 2 ? -1 : 1) * side;
      const room = (height - 50) / Math.max(members.length, 4);
      const y = height / 2 + (step + (members.length % 2 ? 0 : 0.5 * side)) * room;
      const far = high > low ? (high - strongest.get(one.key)) / (high - low) : 0.5;
      spots.set(one.key, { x: width / 2 + side * reach * (0.55 + 0.45 * far), y, side });
    });
  }
  return spots;
}

function picture(near, edges, strongest, width) {
  const labels = width >= ROOM_FOR_LABELS;
  const height = labels ? Math.min(600, 260 + 40 * Math.ceil(near.length / 2)) : Math.max(340, width);
  const middle = { x: width / 2, y: height / 2 };
  const groups = [...new Set([found.centre, ...near].map((one) => one.group ?? ""))].sort();
  const at = places(near, strongest, width, height, labels);
  at.set(found.centre.key, middle);
  const bend = { k0: 0, k1: 16, k2: -16 };
  const drawn = new Set();
  const lines = [...edges].sort((a, b) => own(a) - own(b)).map((edge) => {
    const pair = [edge.source, edge.target].sort().join("\n") + edge.kind;
    const [a, b] = [at.get(edge.source), at.get(edge.target)];
    if (!a || !b || drawn.has(pair)) return null;
    drawn.add(pair);
    // Past the nodes between them, on the inside.
    const inwards = a.side && a.side === b.side ? (middle.x - (a.x + b.x) / 2) * 0.45 : 0;
    const length = Math.hypot(b.x - a.x, b.y - a.y) || 1;
    const [nx, ny] = [(-(b.y - a.y) / length) * bend[look(edge.kind)], ((b.x - a.x) / length) * bend[look(edge.kind)]];
    return svg("path", {
      class: `edge ${look(edge.kind)} ${own(edge) ? "" : "faint"}`, "stroke-width": (1 + 3 * (edge.score ?? 0.3)).toFixed(1),
      d: `M${a.x.toFixed(1)} ${a.y.toFixed(1)}Q${((a.x + b.x) / 2 + nx + inwards).toFixed(1)} ${((a.y + b.y) / 2 + ny).toFixed(1)} ${b.x.toFixed(1)} ${b.y.toFixed(1)}`,
    }, svg("title", {}, `${edge.source} ${edge.kind} ${edge.target}${edge.score === null ? "" : ` ${edge.score.toFixed(3)}`}`));
  });
  const colour = (one) => `f${groups.indexOf(one.group ?? "") % 6}`;
  const nodes = near.map((one, i) => {
    const { x, y, side } = at.get(one.key);
    return svg("a", { href: address(type.type, one.key), "data-focus": `node ${one.key}`, "aria-label": `${one.name}${strongest.get(one.key) ? `, ${strongest.get(one.key).toFixed(3)}` : ""}: draw the graph around it` },
      svg("circle", { class: colour(one), cx: x, cy: y, r: 12 }),
      svg("text", { class: "inside", x, y }, String(i + 1)),
      labels && svg("text", { x: x + 18 * side, y: y + 4, "text-anchor": side === 1 ? "start" : "end" }, cut(one.name, 25)));
  });
  const centre = svg("g", { class: "centre" }, svg("circle", { class: colour(found.centre), cx: middle.x, cy: middle.y, r: 16 }),
    svg("text", { x: middle.x, y: middle.y + 34, "text-anchor": "middle" }, cut(found.centre.name, labels ? 34 : 22)));
  return h("div", {},
    svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "group", "aria-label": `${capital(type.many)} around ${found.centre.name}` }, lines, nodes, centre),
    type.within && h("ul", { class: "legend", "aria-label": title(type.within) }, groups.map((name, i) => h("li", { class: `c${i % 6}` }, name.replaceAll("_", " ")))));
}

const own = (edge) => (edge.source === key || edge.target === key ? 1 : 0);
const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

function neighbourTable(near, edges) {
  return table([["#", "num"], capital(type.one), ["Score", "num"]], near.map((one, i) => {
    const mine = edges.filter((edge) => own(edge) && (edge.source === one.key || edge.target === one.key));
    const kinds = [...new Set(mine.map((edge) => edge.kind))].sort();
    const best = Math.max(...mine.map((edge) => edge.score ?? -1));
    return [String(i + 1), [
      h("a", { href: `#/entity/${encodeURIComponent(type.type)}/${encodeURIComponent(one.key)}`, "data-focus": `row ${one.key}` }, one.name),
      h("span", { class: "kinds" }, kinds.map((kind) => h("span", { class: `line ${look(kind)}`, title: title(kind) }, h("span", { class: "unseen" }, ` ${title(kind)}`))))], best < 0 ? "–" : best.toFixed(3)];
  }), { kind: "compact" });
}
