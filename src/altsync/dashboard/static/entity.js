// All that is known of one entity.
import { get } from "./api.js";
import { $, announce, badge, empty, entityLink, fill, h, moment, table, whenChanged, word } from "./dom.js";
import { discard, retry } from "./failures.js";
import { operationsTable } from "./operations.js";
import { capital, isGraph, typeOf } from "./types.js";

let asked = null;

export async function open(kind, key) {
  if (asked?.kind !== kind || asked?.key !== key) {
    $("entity-result").hidden = true;
    asked = { kind, key, stores: null, mark: null };
    fill($("entity-facts"));
    fill($("entity"));
    $("title-entity").textContent = key;
  }
  await refresh();
  announce(`${key} is shown`);
}

export async function refresh() {
  const now = asked;
  const found = await get("entity", { type: now.kind, key: now.key });
  if (now !== asked) return;
  draw(found, now.kind, now.key, now.stores);
  // The stores themselves are asked only when PostgreSQL says that something has changed.
  const mark = JSON.stringify([found.confirmed, found.state?.version, found.operations[0]?.id, found.operations[0]?.status]);
  if (found.state && now.mark !== mark) {
    now.mark = mark;
    askStores(now, found);
  }
}

async function askStores(now, found) {
  try {
    now.stores = await get("stores", { type: found.state.type, key: found.state.key });
  } catch (error) {
    now.stores = { error: error.message, checks: [], reasons: [], held: {} };
  }
  if (now === asked) draw(found, now.kind, now.key, now.stores);
}

const draw = whenChanged((found, kind, key, stores) => {
  const { state, operations } = found;
  document.title = `${key} · altsync`;
  $("title-entity").textContent = state ? nameOf(state) : key;
  if (!state) {
    fill($("entity-facts"), h("p", { class: "dim" }, "PostgreSQL has no such entity", operations.length ? " any more; this is what the outbox remembers." : "."));
    fill($("entity"), operations.length ? card("Operations", operationsTable(operations)) : empty("Nothing by this key", found.near.length ? ["Did you mean ", found.near.map((one, n) => [n ? ", " : "", h("a", { href: `#/entity//${encodeURIComponent(one)}` }, one)]), "?"] : "An entity goes by its key, which is the same in every store, or by its seed id."));
    return;
  }
  const dead = operations.filter((op) => op.status === "dead").length;
  fill($("entity-facts"),
    h("p", { class: "title" }, h("span", { class: "dim" }, word(state.type)), h("code", {}, state.key),
      state.deleted_at ? [badge("dead"), h("span", {}, "deleted ", moment(state.deleted_at))] : null,
      typeOf(state.type)?.relations.length > 0 && h("a", { href: `#/graph/${encodeURIComponent(state.type)}/${encodeURIComponent(state.key)}`, "data-focus": "to-graph" }, "similarity graph"),
      dead > 0 && h("button", { type: "button", class: "small retry", "data-focus": "retry-entity", onclick: (event) => retry(event.currentTarget, $("entity-result"), { entity_type: state.type, key: state.key }, state.key) }, `Retry ${dead} dead`),
      dead > 0 && h("button", { type: "button", class: "small quiet discard", "data-focus": "discard-entity", onclick: (event) => discard(event.currentTarget, $("entity-result"), { entity_type: state.type, key: state.key }, state.key) }, "Discard…")));
  fill($("entity"), h("div", { class: "parts" },
    card("In each store", storesTable(found, stores), verdict(stores)),
    h("div", { class: "columns even" }, card("Content", contentList(state)), card("Relationships", relationships(state))),
    card("Operations", operations.length ? operationsTable(operations, { withEntity: false }) : empty("No operation", "Its history was pruned, or it was never enqueued."))));
});

const nameOf = ({ type, key, content }) => content[typeOf(type)?.name_field] ?? key;
const card = (title, ...body) => h("section", { class: "card" }, h("div", { class: "head" }, h("h2", {}, title)), ...body);

function storesTable({ state, confirmed }, stores) {
  const version = (value) => (value === null || value === undefined ? h("span", { class: "dim" }, "–") : h("span", { class: "mono" }, String(value)));
  const check = (name) => stores?.checks.find((one) => one.store === name);
  const rows = Object.entries(state.sinks).map(([name, mark]) => {
    const wanted = isGraph(name) ? state.graph_version : state.version;
    const held = stores?.held[name];
    const now = !stores ? h("span", { class: "dim" }, "asking…") : held?.length ? held.map((one) => version(one)) : version(null);
    const where = [mark.remote_id, mark.namespace].filter(Boolean).join(" in ") || (name === "embedding" ? state.embedding_model : null);
    return [name, badge(mark.status), version(wanted), version(confirmed[name]), name === "embedding" ? "" : now, found(check(name)), moment(mark.synced_at), where ? h("span", { class: "mono" }, where) : ""];
  });
  const own = ["PostgreSQL", h("span", { class: "badge" }, "source"), version(state.version), "", "", check("seed") ? ["seed: ", found(check("seed"))] : "", moment(state.updated_at), h("span", { class: "mono" }, state.id)];
  return table(["Store", "Status", ["Wanted", "num"], ["Confirmed", "num"], ["Held now", "num"], "Found", "When", "There as"], [own, ...rows]);
}

function found(check) {
  if (!check) return "";
  const [tone, text] = check.agrees === null ? [null, "not known"] : check.agrees ? ["good", "agrees"] : ["bad", "differs"];
  return [h("span", { class: "badge", "data-tone": tone }, text), " ", h("span", { class: "error-text" }, check.detail)];
}

function verdict(stores) {
  if (!stores) return null;
  if (stores.error) return h("p", { class: "t-failed" }, stores.error);
  return h("ul", { class: "reasons" }, stores.reasons.map((reason) => h("li", {}, reason)));
}

function contentList(state) {
  const shown = Object.entries(state.content).filter(([, value]) => value !== null && value !== "" && !(typeof value === "object" && !Object.keys(value).length));
  return h("dl", { class: "content" }, [["seed id", state.seed_id], ...shown].map(([name, value]) => [
    h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, typeof value === "object" ? JSON.stringify(value, null, 1) : String(value))]));
}

function relationships({ type, relationships: found }) {
  const { one, many, relations } = typeOf(type);
  if (!found.length) return empty("None", relations.length ? `Similarity between ${many} is computed after they are embedded.` : `The catalogue declares no relationships between ${many}.`);
  const strongest = [...found].sort((a, b) => (b.score ?? -1) - (a.score ?? -1));
  return table(["Type", capital(one), ["Score", "num"]], strongest.slice(0, 12).map((other) => [
    `${other.type} ${other.direction === "out" ? "→" : "←"}`, entityLink(type, other.key, `rel ${other.type} ${other.direction} ${other.key}`), other.score === null ? "" : other.score.toFixed(3)]),
    { caption: found.length > 12 ? `The 12 strongest of ${found.length}` : null });
}
