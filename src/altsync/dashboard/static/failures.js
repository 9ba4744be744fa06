// Dead letters by error: trying them again, or giving up on them for good.
import { post } from "./api.js";
import { $, count, empty, entityLink, fill, h, moment, plural, whenChanged, word } from "./dom.js";

// Whose fault an error is.
const KINDS = {
  item: "the record’s own fault",
  sink: "the sink was down, throttled, or refused the key",
  unknown: "it was not told whose fault it is",
  lost: "the workers vanished with it",
};

export const drawFailures = whenChanged(({ groups, all_groups: errors, operations }) => {
  $("failures-count").textContent = operations ? `${plural(operations, "operation")} by ${plural(errors, "error")}` : "";
  if (!groups.length) {
    fill($("failures"), empty("No dead operations", "Operations that fail for good are listed here with their error."));
    return;
  }
  const hidden = errors - groups.length;
  fill($("failures"), [...groups.map(drawGroup),
    ...(hidden > 0 ? [h("p", { class: "dim" }, `${plural(hidden, "more error")}: altsync failures --json lists all of them.`)] : [])]);
});

function drawGroup(group) {
  const more = group.count - group.samples.length;
  return h("article", { class: "failure", "data-group": group.group },
    h("div", { class: "what" },
      h("span", { class: "count" }, count(group.count)), h("strong", {}, group.sink), h("span", { class: "badge", title: KINDS[group.error_kind] }, group.error_kind),
      h("span", { class: "dim" }, group.oldest.slice(0, 19) === group.newest.slice(0, 19) ? [moment(group.newest)] : [moment(group.oldest), " to ", moment(group.newest)])),
    h("div", { class: "do" }, h("button", {
      type: "button", class: "quiet discard", "data-focus": `discard ${group.group}`,
      "aria-label": `Discard all ${count(group.count)} of ${group.sink}: ${group.reason.slice(0, 80)}`,
      onclick: (event) => discard(event.currentTarget, $("retry-result"), { sink: group.sink, group: group.group }, `${group.sink}, ${plural(group.count, "operation")}`),
    }, "Discard…"), h("button", {
      type: "button", class: "retry", "data-focus": `group ${group.group}`,
      "aria-label": `Retry all ${count(group.count)} of ${group.sink}: ${group.reason.slice(0, 80)}`,
      onclick: (event) => retry(event.currentTarget, $("retry-result"), { sink: group.sink, group: group.group }, `${group.sink}, ${plural(group.count, "operation")}`),
    }, group.count === 1 ? "Retry" : `Retry all ${count(group.count)}`)),
    h("p", { class: "reason" }, group.reason),
    group.sample_reason !== group.reason && h("p", { class: "reason dim" }, `The latest: ${group.sample_reason}`),
    h("ul", { class: "samples", "aria-label": "For example" },
      group.samples.map(({ entity_type: kind, key }) => h("li", {},
        h("span", { class: "dim" }, word(kind)), "\u00a0", entityLink(kind, key, `entity ${group.group} ${kind} ${key}`),
        h("button", {
          type: "button", class: "quiet small", "data-focus": `one ${group.group} ${kind} ${key}`, "aria-label": `Retry ${key} in ${group.sink}`,
          onclick: (event) => retry(event.currentTarget, $("retry-result"), { sink: group.sink, group: group.group, entity_type: kind, key }, `${group.sink}, ${key}`),
        }, "retry"))),
      more > 0 && h("li", { class: "dim" }, `${count(more)} more\u00a0`)));
}

export const retry = (button, result, what, name) => press(button, result, `${name}: not retried`, async () => {
  const { retried, due } = await post("retry", what);
  const again = due === retried ? "" : ` (${plural(due, "operation is", "operations are")} due: some had the same entity, or wait for its embedding)`;
  return retried ? `${name}: ${plural(retried, "dead operation was", "dead operations were")} enqueued again${again}.` : `${name}: nothing is dead there any more.`;
});

// Asks why first: the answer is kept with every operation.
export function discard(button, result, what, name) {
  const why = prompt(`Give up on ${name} for good? They are not tried again until their entities change. Why will they never work?`)?.trim();
  if (!why) return;
  press(button, result, `${name}: not discarded`, async () => {
    const { discarded } = await post("discard", { ...what, why });
    return discarded ? `${name}: ${plural(discarded, "dead operation was", "dead operations were")} discarded.` : `${name}: nothing is dead there any more.`;
  });
}

// Does what a button is for, says what came of it, and has the page look again.
export async function press(button, result, failed, act) {
  button.disabled = true;
  try {
    say(result, await act(), "good");
  } catch (error) {
    say(result, `${failed}, ${error.message}`, "bad");
  } finally {
    button.disabled = false;
  }
  document.dispatchEvent(new CustomEvent("altsync:changed"));
}

// The place is a live region, so the text is read out where it appears.
function say(place, text, tone) {
  place.hidden = false;
  place.dataset.tone = tone;
  place.textContent = text;
}
