// Models side by side: the serving one, the one beside it, and how far that is.
import { $, age, count, fill, h, plural, whenChanged } from "./dom.js";

const NOTES = {
  filling: "Workers fill the new indexes behind all other work.",
  ready: "Nothing waits: altsync model verify, then altsync model switch.",
  switched: "The former indexes are kept in step: altsync model rollback, or altsync model drop.",
  dropping: "The indexes are being removed: altsync model drop --yes ends it.",
};

const named = ({ model }) => `${model.name} (${model.dimensions} dimensions)`;

function bar({ done, total }) {
  const share = total ? Math.round((100 * done) / total) : 0;
  const part = h("i", { class: "settled" });
  part.style.width = `${share}%`;
  return h("div", { class: "budget", "data-tone": share === 100 ? "good" : "wait", role: "img", "aria-label": `${share}% done` }, part);
}

export const drawModels = whenChanged((models) => {
  $("models-card").hidden = !models || models.state === "single";
  if ($("models-card").hidden) return;
  const { serving, shadow, dropping, state, sinks, dead, verified } = models;
  const fact = (title, value, tone) => h("div", {}, h("dt", {}, title), h("dd", { "data-tone": tone }, value));
  $("models-state").textContent = state;
  fill($("models"),
    h("dl", { class: "facts budget-facts" },
      fact("Serving", named(serving)),
      shadow && fact(state === "switched" ? "Former" : "New", named(shadow)),
      dropping && fact("Dropping", named(dropping)),
      fact("Verified", verified ?? "no", verified ? "good" : null),
      fact("Dead", count(dead), dead ? "bad" : null)),
    h("p", { class: "dim" }, dead ? `${plural(dead, "operation")} dead: altsync model verify --repair tries again.` : NOTES[state]),
    Object.keys(sinks).length > 0 && h("table", { class: "stack" },
      h("caption", { class: "unseen" }, "Progress of the model beside the serving one, by sink"),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Sink"), h("th", { scope: "col" }, "Done"),
        ["Entities", "Waiting", "Per minute", "Left"].map((name) => h("th", { scope: "col", class: "num" }, name)))),
      h("tbody", {}, Object.entries(sinks).map(([name, one]) => h("tr", {},
        h("th", { scope: "row", "data-label": "Sink" }, name),
        h("td", { "data-label": "Done" }, bar(one)),
        h("td", { class: "num", "data-label": "Entities" }, `${count(one.done)} / ${count(one.total)}`),
        h("td", { class: "num", "data-label": "Waiting" }, count(one.waiting)),
        h("td", { class: "num", "data-label": "Per minute" }, count(Math.round(one.per_minute))),
        h("td", { class: "num", "data-label": "Left" }, one.seconds_left === null ? "–" : age(one.seconds_left)))))));
});
