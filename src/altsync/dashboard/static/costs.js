// Cost and budget: the dollars of the day beside the cap, and their origins.
import { $, count, fill, h, whenChanged } from "./dom.js";

const CENTS = new Intl.NumberFormat("en", { style: "currency", currency: "USD" });
const PARTS = new Intl.NumberFormat("en", { style: "currency", currency: "USD", maximumFractionDigits: 6 });

const dollars = (amount) => (amount >= 1 || !amount ? CENTS : PARTS).format(amount);

// Nine tenths of the cap, as the alert AltsyncCostNearCap.
const NEAR = 0.9;

function bar({ dollars: settled, reserved, cap }, tone) {
  const part = (kind, amount) => {
    const one = h("i", { class: kind });
    one.style.width = `${Math.min(100, cap ? (100 * amount) / cap : amount ? 100 : 0)}%`;
    return one;
  };
  const share = cap ? Math.round((100 * (settled + reserved)) / cap) : 100;
  return h("div", { class: "budget", "data-tone": tone, role: "img", "aria-label": `${share}% of the cap` },
    part("settled", settled), part("reserved", reserved));
}

export const drawCosts = whenChanged((costs) => {
  $("costs-card").hidden = !costs;
  if (!costs) return;
  const { spent, cap, left, reserved } = costs;
  const used = cap === null ? null : cap ? (costs.dollars + reserved) / cap : 1;
  const tone = used === null ? null : used >= 1 ? "bad" : used >= NEAR ? "wait" : "good";
  const fact = (title, value, mood) => h("div", {}, h("dt", {}, title), h("dd", { "data-tone": mood }, value));
  $("costs-day").textContent = `${costs.day} (UTC)`;
  fill($("costs"),
    h("dl", { class: "facts budget-facts" },
      fact("Spent today", dollars(costs.dollars), tone),
      fact("Reserved", dollars(reserved), reserved ? "wait" : null),
      fact("Cap of the day", cap === null ? "none" : dollars(cap)),
      cap !== null && fact("Left", dollars(left), tone)),
    cap !== null && bar(costs, tone),
    h("p", { class: "dim" }, cap === null
      ? "ALTSYNC_MAX_COST_PER_DAY sets a cap that all workers keep."
      : tone === "bad" || left === 0 ? "The cap is reached: raise ALTSYNC_MAX_COST_PER_DAY, or wait for 00:00 UTC. Nothing is lost."
        : "A paid call that may exceed the cap is not made."),
    spent.length > 0 && h("table", { class: "stack" },
      h("caption", { class: "unseen" }, "Cost of today by sink and origin"),
      h("thead", {}, h("tr", {}, ["Sink", "Origin"].map((name) => h("th", { scope: "col" }, name)),
        ["Tokens", "Read units", "Write units", "Dollars"].map((name) => h("th", { scope: "col", class: "num" }, name)))),
      h("tbody", {}, spent.map((one) => h("tr", {},
        h("th", { scope: "row", "data-label": "Sink" }, one.sink),
        h("td", { "data-label": "Origin" }, one.origin),
        h("td", { class: "num", "data-label": "Tokens" }, count(one.tokens)),
        h("td", { class: "num", "data-label": "Read units" }, count(one.read_units)),
        h("td", { class: "num", "data-label": "Write units" }, count(one.write_units)),
        h("td", { class: "num", "data-label": "Dollars" }, dollars(one.dollars)))))),
    !spent.length && h("p", { class: "empty" }, h("strong", {}, "No cost today"), "No paid call was recorded since 00:00 UTC."));
});
