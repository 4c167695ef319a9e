// What would become of the picture: rule, clip, memory, time, warnings; as one types.

import { fill, h } from "./dom.js";
import { said } from "./said.js";
import { bytes, duration, t } from "./text.js";

/** `{element, draw(answer, clips)}`. */
export function outlookPanel() {
  const words = h("div", { class: "said", "aria-live": "polite" });
  const facts = h("dl", { class: "facts" });
  const rules = h("div", { class: "why" });
  const element = h("section", { class: "card outlook", "aria-labelledby": "outlook" },
    h("h2", { id: "outlook" }, t("outlook")), words, facts, rules);
  return { element, draw };

  function draw(answer, clips) {
    fill(words,
      answer.mistakes.map((text) => h("p", { class: "mistake" }, plain(text))),
      answer.warnings.map((text) => h("p", { class: "warning" }, plain(text))),
      !answer.rule && h("p", { class: "warning" }, t("no.rule")));
    const spec = answer.specs[0];
    fill(facts, spec ? lines(spec, answer, clips) : []);
    fill(rules, answer.rule && rule(answer));
  }
}

/** A mistake without the place in a file that the form does not have. */
export function plain(text) {
  return said(text.replace(/^make(:\d+)?: (warning: )?/, ""));
}

function lines(spec, answer, clips) {
  const cost = answer.estimate;
  const begins = t("begins.as", { mode: cost.mode, size: `${cost.width}×${cost.height}`, frames: cost.frames });
  const steps = cost.steps === spec.steps ? spec.steps : t("steps.of", { made: cost.steps, asked: spec.steps });
  return [
    line("clip", t("clip.is", { size: `${spec.width}×${spec.height}`, frames: spec.frames, seconds: (spec.frames / spec.fps).toFixed(1), steps })),
    answer.kept < 0.995 && line("kept", t("kept.share", { share: Math.round(answer.kept * 100) })),
    line("memory", cost.room ? t("memory.of", { needs: bytes(cost.bytes), room: bytes(cost.room) }) : bytes(cost.bytes)),
    line("begins", begins, cost.degraded && t("degraded.note")),
    line("time", cost.seconds === null ? t("time.unknown") : whole(cost.seconds, clips)),
  ];
}

function whole(seconds, clips) {
  if (clips < 2) return duration(seconds);
  return t("time.all", { one: duration(seconds), n: clips, all: duration(seconds * clips) });
}

function line(key, text, note) {
  return h("div", {}, h("dt", {}, t(key)), h("dd", {}, text, note && h("span", { class: "warning" }, note)));
}

/** The rule that takes it, and why the earlier ones do not. */
export function rule(answer) {
  return [
    h("p", {}, t("rule.takes"), " ", h("strong", {}, answer.rule)),
    answer.rejected_by.length > 0 &&
      h("details", {}, h("summary", {}, t("rule.not", { n: answer.rejected_by.length })),
        h("ul", {}, answer.rejected_by.map(([name, why]) => h("li", {}, h("strong", {}, name), " – ", said(why))))),
  ];
}
