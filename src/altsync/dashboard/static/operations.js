// Recent operations with filters, page by page.
import { get } from "./api.js";
import { $, badge, count, empty, entityLink, fill, h, moment, options, plural, table, whenChanged, word } from "./dom.js";

const STATUSES = ["pending", "in_progress", "synced", "dead", "superseded", "discarded"];
const PAGE = 50;

let before = null;
let shown = [];

export function start(sinks) {
  const form = $("operations-form");
  options(form.elements.sink, sinks, "all sinks");
  options(form.elements.status, STATUSES, "all statuses");
  form.addEventListener("submit", (event) => { event.preventDefault(); turn(null); });
  form.addEventListener("reset", () => setTimeout(() => turn(null)));
  for (const name of ["sink", "status"]) form.elements[name].addEventListener("change", () => turn(null));
  $("operations-older").addEventListener("click", () => turn(shown.at(-1)?.id ?? null));
  $("operations-newer").addEventListener("click", () => turn(null));
}

async function turn(place) {
  before = place;
  try { await refresh(); } catch (error) { fill($("operations"), empty("No answer", error.message)); }
}

export async function refresh() {
  const form = $("operations-form").elements;
  const query = { sink: form.sink.value, status: form.status.value, key: form.key.value.trim(), before, limit: PAGE };
  const { operations } = await get("operations", query);
  shown = operations;
  $("operations-older").disabled = operations.length < PAGE;
  $("operations-newer").disabled = before === null;
  $("operations-note").textContent = `${plural(operations.length, "operation")}${before === null ? ", the newest first" : ""}`;
  draw(operations);
}

const draw = whenChanged((operations) => fill($("operations"), operations.length
  ? operationsTable(operations)
  : empty("No such operation", "Seeding, retries and backfills enqueue operations; loosen the filters to see them.")));

export function operationsTable(operations, { withEntity = true } = {}) {
  const columns = [["Changed", "nowrap"], ...(withEntity ? ["Entity"] : []), ["Sink", "nowrap"], "Status", "Action", ["Attempts", "num"], ["Version", "num"], "Detail"];
  return table(columns, operations.map((op) => [
    moment(op.finished_at ?? op.created_at),
    ...(withEntity ? [[h("span", { class: "dim" }, `${word(op.entity_type)} `), entityLink(op.entity_type, op.entity_key, `op ${op.id}`)]] : []),
    op.sink,
    badge(op.status),
    `${op.action} by ${op.origin}`,
    count(op.attempts),
    h("span", { class: "mono" }, String(op.version)),
    detail(op),
  ]));
}

function detail(op) {
  if (op.status === "discarded") return h("span", { class: "error-text" }, `discarded by ${op.discarded_by}: ${op.discarded_why}; after ${op.error_kind}: ${op.last_error}`);
  if (op.last_error) return h("span", { class: "error-text" }, op.error_kind ? `${op.error_kind}: ` : "", op.last_error);
  if (op.status === "pending") return h("span", { class: "error-text" }, "due ", moment(op.available_at));
  if (op.status === "in_progress") return h("span", { class: "error-text" }, `leased by ${op.leased_by ?? "?"} until `, moment(op.available_at));
  return "";
}
