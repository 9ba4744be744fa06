// Semantic search over leagues. It asks the embedder, so it is a POST and never asked by itself.
import { get, post } from "./api.js";
import { $, badge, empty, entityLink, fill, h, options, plural, table } from "./dom.js";

let filled = false;

export function start() {
  $("search-form").addEventListener("submit", (event) => { event.preventDefault(); search(); });
  fill($("search-results"), empty("Ask in your own words", "The nearest leagues come from Pinecone, their rows from PostgreSQL."));
}

export async function open() {
  if (filled) return;
  const form = $("search-form").elements;
  const choices = await get("choices");
  options(form.status, choices.statuses, "any");
  options(form.archetype, choices.archetypes, "any");
  options(form.tier, choices.tiers, "any");
  options(form.contract_status, choices.contract_statuses, "any");
  filled = true;
}

async function search() {
  const form = $("search-form");
  const body = Object.fromEntries(new FormData(form));
  const button = form.querySelector("button");
  button.disabled = true;
  $("search-note").textContent = "Searching…";
  try {
    const { found } = await post("search", body);
    $("search-note").textContent = plural(found.length, "league");
    fill($("search-results"), found.length ? results(found) : empty("No league fits", "Loosen the filters, or say it in other words."));
  } catch (error) {
    $("search-note").textContent = `Not found: ${error.message}`;
    fill($("search-results"));
  } finally {
    button.disabled = false;
  }
}

function results(found) {
  return table([["Score"], "League", "Sport", "Archetype", "Tier", "Status", "Contracts", "Location", ""], found.map((one) => [
    score(one.score),
    [entityLink("league", one.league_tag), h("br"), h("span", { class: "dim" }, one.league_name)],
    one.sport_name ?? "", one.sport_archetype, one.tier ?? "", one.status ? h("span", { class: "badge", "data-tone": one.status === "active" ? "good" : null }, one.status) : "", one.contracts.join(", "), one.location ?? "",
    h("a", { href: `#/graph/${encodeURIComponent(one.league_tag)}`, "aria-label": `Similarity graph of ${one.league_name}` }, "graph"),
  ]));
}

function score(value) {
  const bar = h("i", {});
  bar.style.width = `${Math.max(0, Math.min(1, value)) * 100}%`;
  return h("span", { class: "score" }, h("span", { class: "mono" }, value.toFixed(3)), h("span", { class: "track", "aria-hidden": "true" }, bar));
}
