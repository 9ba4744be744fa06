// Building elements. Text is only ever set as text: keys and errors come from users' data.
import { typeOf } from "./types.js";

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

function build(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value" && "value" in node) node.value = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const h = (tag, props, ...children) => build(document.createElement(tag), props, children);
export const svg = (tag, props, ...children) => build(document.createElementNS(SVG, tag), props, children);

// Replaces what a container holds; the focus stays on the element of the same data-focus.
export function fill(container, ...children) {
  const held = document.activeElement;
  const mark = container.contains(held) ? held.dataset?.focus : undefined;
  container.replaceChildren(...children.flat(Infinity).filter(Boolean));
  if (mark) [...container.querySelectorAll("[data-focus]")].find((one) => one.dataset.focus === mark)?.focus();
}

// Calls draw only when the data differ from those drawn last.
export function whenChanged(draw) {
  let last;
  return (data, ...rest) => {
    const now = JSON.stringify([data, rest]);
    if (now !== last) draw(data, ...rest);
    last = now;
  };
}

export function announce(text) {
  $("announcer").textContent = "";
  // A region that is emptied first is read again even when the words are the same.
  requestAnimationFrame(() => { $("announcer").textContent = text; });
}

const WHOLE = new Intl.NumberFormat("en");
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const STAMP = new Intl.DateTimeFormat("en-GB", { day: "2-digit", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" });

export const count = (number) => WHOLE.format(number);
export const short = (number) => SHORT.format(number);
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

export function age(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= size) return `${(seconds / size).toFixed(1)} ${unit}`;
  }
  return `${Math.max(0, seconds).toFixed(0)} s`;
}

export function moment(text) {
  if (!text) return h("span", { class: "dim" }, "–");
  const when = new Date(text);
  const today = when.toDateString() === new Date().toDateString();
  return h("time", { datetime: text, title: text, class: "nowrap" }, (today ? CLOCK : STAMP).format(when));
}

export const TONES = {
  synced: "good", closed: "good", pending: "wait", in_progress: "wait", probing: "wait", paused: "wait",
  failed: "bad", dead: "bad", open: "bad", discarded: "bad",
};
export const WORDS = { closed: "ready", in_progress: "in progress" };
export const word = (name) => WORDS[name] ?? typeOf(name)?.one ?? name;
export const badge = (name) => h("span", { class: "badge", "data-tone": TONES[name] }, word(name));

export const entityLink = (kind, key, focus) =>
  h("a", { href: `#/entity/${encodeURIComponent(kind)}/${encodeURIComponent(key)}`, "data-focus": focus }, key);

export const empty = (title, text) => h("div", { class: "empty" }, h("strong", {}, title), h("span", {}, text));

// A table whose rows become cards on a phone. A column is [title, class].
export function table(columns, rows, { caption = null, kind: look = "stack" } = {}) {
  const title = (column) => (Array.isArray(column) ? column[0] : column);
  const kind = (column) => (Array.isArray(column) ? column[1] : null);
  return h("table", { class: look },
    caption && h("caption", {}, caption),
    h("thead", {}, h("tr", {}, columns.map((c) => h("th", { scope: "col", class: kind(c) }, title(c))))),
    h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell, place) =>
      h(place ? "td" : "th", { scope: place ? null : "row", class: kind(columns[place]), "data-label": title(columns[place]) }, cell === "" ? [] : h("span", {}, cell)))))));
}

export function options(select, values, everything) {
  const before = select.value;
  fill(select, h("option", { value: "" }, everything), values.map((v) => h("option", { value: v }, word(v))));
  if (["", ...values].includes(before)) select.value = before;
}
