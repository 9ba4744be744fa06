// Stacked columns over time, drawn as SVG, with a cursor for mouse and keyboard.
import { count, fill, h, short, svg } from "./dom.js";

const HEIGHT = 250;
const EDGE = { left: 50, right: 8, top: 12, bottom: 26 };

export const MEASURES = {
  synced: "operations synced",
  claimed: "attempts",
  retried: "retried",
  dead: "dead",
  remote_calls: "remote calls",
  tokens: "tokens",
  read_units: "read units",
  write_units: "write units",
};

// A round number at or above value / steps: 1, 2 or 5 times a power of ten.
function roundStep(value, steps) {
  const rough = Math.max(value / steps, 1e-9);
  const power = 10 ** Math.floor(Math.log10(rough));
  return Math.max(1, [1, 2, 5, 10].find((f) => f * power >= rough) * power);
}

// Distances between the labels of the time axis, in seconds.
const DISTANCES = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800];

function timeTicks(start, end, room) {
  // Over several days a time of day alone says nothing.
  const least = end - start > 3 * 86400 ? 86400 : 0;
  const distance = DISTANCES.find((d) => d >= least && (end - start) / d <= room) ?? 172800;
  const shift = new Date(start * 1000).getTimezoneOffset() * 60;
  const ticks = [];
  for (let t = Math.ceil((start - shift) / distance) * distance + shift; t <= end; t += distance) ticks.push(t);
  return [ticks, distance];
}

// The length of a slice as people say it: "minute", "20 min".
function each(seconds) {
  if (seconds === 60) return "minute";
  return seconds < 60 ? `${seconds} s` : seconds < 3600 ? `${seconds / 60} min` : seconds === 3600 ? "hour" : `${seconds / 3600} h`;
}

const pad = (number) => String(number).padStart(2, "0");
function clock(seconds, days, exact) {
  const d = new Date(seconds * 1000);
  if (exact) return `${pad(d.getHours())}:${pad(d.getMinutes())}:${pad(d.getSeconds())}`;
  return days ? `${d.getDate()} ${d.toLocaleString("en", { month: "short" })}` : `${pad(d.getHours())}:${pad(d.getMinutes())}`;
}

export class Plot {
  constructor(box) {
    this.box = box;
    this.cursor = null;
    this.output = h("output", {});
    this.picture = h("div", { class: "picture" });
    this.legend = h("ul", { class: "legend", "aria-label": "Sinks, with totals of the span" });
    this.rows = h("div", {});
    this.details = h("details", {}, h("summary", {}, "As a table"), this.rows);
    this.details.addEventListener("toggle", () => this.drawTable());
    box.classList.add("plot");
    box.append(this.picture, h("div", { class: "foot" }, this.legend, this.output), this.details);
    this.width = 0;
    new ResizeObserver(() => {
      if (this.picture.clientWidth && this.picture.clientWidth !== this.width) this.draw();
    }).observe(this.picture);
  }

  show(data, measure) {
    this.data = data;
    this.measure = measure;
    this.draw();
  }

  // When a slice begins, as precisely as its length asks for.
  name(slice) {
    const { step, slices } = this.data;
    const at = this.start + slice * step;
    const day = step * slices > 86400 ? `${clock(at, true)} ` : "";
    return day + clock(at, false, step < 60);
  }

  value(sink, slice) { return this.data.sinks[sink][slice][this.measure]; }

  draw() {
    if (!this.data) return;
    const { data, measure } = this;
    this.width = this.picture.clientWidth || 600;
    const sinks = Object.keys(data.sinks);
    const totals = Array.from({ length: data.slices }, (_, i) => sinks.reduce((sum, s) => sum + this.value(s, i), 0));
    const step = roundStep(Math.max(...totals, 4), 4);
    this.top = Math.ceil(Math.max(...totals, 4) / step) * step;
    const start = Date.parse(data.start) / 1000;
    const end = start + data.step * data.slices;
    const wide = this.width - EDGE.left - EDGE.right;
    const high = HEIGHT - EDGE.top - EDGE.bottom;
    this.slot = wide / data.slices;
    const y = (value) => EDGE.top + high * (1 - value / this.top);
    const x = (seconds) => EDGE.left + (wide * (seconds - start)) / (end - start);

    const grid = [];
    for (let v = 0; v <= this.top; v += step) {
      const at = Math.round(y(v)) + 0.5;
      grid.push(svg("line", { class: v ? "grid" : "base", x1: EDGE.left, x2: this.width - EDGE.right, y1: at, y2: at }));
      grid.push(svg("text", { x: EDGE.left - 8, y: at + 4, "text-anchor": "end" }, short(v)));
    }
    const [ticks, distance] = timeTicks(start, end, Math.max(2, Math.floor(wide / 62)));
    for (const t of ticks) {
      if (x(t) < EDGE.left + 14 || x(t) > this.width - EDGE.right - 14) continue;
      grid.push(svg("text", { x: x(t), y: HEIGHT - 8, "text-anchor": "middle" }, clock(t, distance >= 86400)));
    }
    const gap = this.slot > 6 ? 1.5 : 0.5;
    const bars = [];
    totals.forEach((_, i) => {
      let below = 0;
      sinks.forEach((sink, place) => {
        const value = this.value(sink, i);
        if (!value) return;
        const from = y(below);
        const to = Math.min(y(below + value), from - 1);
        bars.push(svg("rect", { class: `f${place % 6}`, x: EDGE.left + i * this.slot + gap / 2, y: to, width: Math.max(1, this.slot - gap), height: from - to }));
        below += value;
      });
    });
    this.here = svg("rect", { class: "here", y: EDGE.top, height: high, width: this.slot, visibility: "hidden" });
    const sum = totals.reduce((a, b) => a + b, 0);
    this.canvas = svg("svg", {
      viewBox: `0 0 ${this.width} ${HEIGHT}`, height: HEIGHT, role: "img", tabindex: 0, "data-focus": "plot",
      "aria-label": `${MEASURES[measure]} per ${each(data.step)} from ${clock(start)} to ${clock(end)}, ${count(sum)} in all. Arrow keys move through the columns.`,
      onkeydown: (event) => this.key(event),
      onpointermove: (event) => this.point(event),
      onpointerleave: () => this.move(null),
    }, grid, this.here, bars);
    fill(this.picture, this.canvas);
    fill(this.legend, sinks.map((sink, place) => {
      const total = data.sinks[sink].reduce((s, work) => s + work[measure], 0);
      return h("li", { class: `c${place % 6}` }, `${sink} ${count(total)}`);
    }));
    this.totals = totals;
    this.start = start;
    this.move(this.cursor === null ? null : Math.min(this.cursor, data.slices - 1));
    this.drawTable();
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const place = Math.floor(((event.clientX - box.left) * (this.width / box.width) - EDGE.left) / this.slot);
    this.move(place >= 0 && place < this.data.slices ? place : null);
  }

  key(event) {
    const last = this.data.slices - 1;
    const now = this.cursor ?? last + 1;
    const places = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last };
    if (event.key === "Escape") this.move(null);
    if (!(event.key in places)) return;
    event.preventDefault();
    this.move(Math.min(last, Math.max(0, places[event.key])));
  }

  move(place) {
    this.cursor = place;
    this.here.setAttribute("visibility", place === null ? "hidden" : "visible");
    if (place === null) {
      const peak = Math.max(...this.totals);
      this.output.textContent = peak ? `per ${each(this.data.step)}; peak ${count(peak)}` : `per ${each(this.data.step)}; nothing in this span`;
      return;
    }
    this.here.setAttribute("x", EDGE.left + place * this.slot);
    const parts = Object.keys(this.data.sinks).filter((s) => this.value(s, place)).map((s) => `${s} ${count(this.value(s, place))}`);
    this.output.textContent = `${this.name(place)}: ${parts.join(", ") || "nothing"}`;
  }

  drawTable() {
    if (!this.details.open || !this.data) return;
    const sinks = Object.keys(this.data.sinks);
    const rows = this.totals.map((total, i) => [total, i]).filter(([total]) => total).reverse();
    fill(this.rows, h("table", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "from"), sinks.map((s) => h("th", { scope: "col", class: "num" }, s)))),
      h("tbody", {}, rows.map(([, i]) => h("tr", {}, h("th", { scope: "row" }, this.name(i)),
        sinks.map((s) => h("td", { class: "num" }, count(this.value(s, i)))))))));
  }
}
