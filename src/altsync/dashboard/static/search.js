// Semantic search over entities. It asks the embedder, so it is a POST and never asked by itself.
import { get, post } from "./api.js";
import { $, empty, entityLink, fill, h, options, plural, table } from "./dom.js";
import { allTypes, capital, firstType, title, typeOf } from "./types.js";

let filled = null;

export function start() {
  const form = $("search-form");
  fill(form.elements.entity, allTypes().map((one) => h("option", { value: one.type }, one.many)));
  form.elements.entity.value = firstType();
  form.elements.entity.addEventListener("change", () => { hint(); open(); });
  form.addEventListener("submit", (event) => { event.preventDefault(); search(); });
  hint();
}

const chosen = () => typeOf($("search-form").elements.entity.value);

function hint() {
  $("search-note").textContent = "";
  fill($("search-results"), empty("Ask in your own words", `The nearest ${chosen().many} come from the vector index, their rows from PostgreSQL.`));
}

export async function open() {
  const kind = chosen().type;
  if (filled === kind) return;
  const choices = await get("choices", { entity: kind });
  if (kind !== chosen().type) return;
  fill($("search-filters"), Object.entries(choices).filter(([, values]) => values === null || values.length > 1).map(([field, values]) => {
    if (values === null) return h("label", {}, title(field), " ", h("input", { name: field, type: "search", autocomplete: "off", spellcheck: "false" }));
    const select = h("select", { name: field });
    options(select, values.map(String), "any");
    return h("label", {}, title(field), " ", select);
  }));
  filled = kind;
}

async function search() {
  const form = $("search-form");
  const { text, entity, ...where } = Object.fromEntries(new FormData(form));
  const { one, many } = typeOf(entity);
  const button = form.querySelector("button");
  button.disabled = true;
  $("search-note").textContent = "Searching…";
  try {
    const { found } = await post("search", { entity, text, where });
    $("search-note").textContent = plural(found.length, one, many);
    fill($("search-results"), found.length ? results(entity, found) : empty(`No ${one} fits`, "Loosen the filters, or say it in other words."));
  } catch (error) {
    $("search-note").textContent = `Not found: ${error.message}`;
    fill($("search-results"));
  } finally {
    button.disabled = false;
  }
}

function results(entity, found) {
  const { one: noun, filters, relations } = typeOf(entity);
  const columns = [["Score"], capital(noun), ...filters.map(title), ...(relations.length ? [""] : [])];
  return table(columns, found.map((one) => [
    score(one.score),
    [entityLink(entity, one.key), h("br"), h("span", { class: "dim" }, one.name === one.key ? "" : one.name)],
    ...filters.map((field) => shown(one.fields[field])),
    ...(relations.length ? [h("a", { href: `#/graph/${encodeURIComponent(entity)}/${encodeURIComponent(one.key)}`, "aria-label": `Similarity graph of ${one.name}` }, "graph")] : []),
  ]));
}

const shown = (value) => (value === null || value === undefined ? "" : Array.isArray(value) ? value.join(", ") : String(value));

function score(value) {
  const bar = h("i", {});
  bar.style.width = `${Math.max(0, Math.min(1, value)) * 100}%`;
  return h("span", { class: "score" }, h("span", { class: "mono" }, value.toFixed(3)), h("span", { class: "track", "aria-hidden": "true" }, bar));
}
