// Dry run: rule, clip, memory, time and warnings for the current form.

import { h, setChildren } from "./dom.js";
import { translate } from "./messages.js";
import { bytes, duration, t } from "./text.js";

/** `{element, draw(answer, clips)}`. */
export function dryRunPanel() {
  const words = h("div", { class: "messages", "aria-live": "polite" });
  const facts = h("dl", { class: "facts" });
  const rules = h("div", { class: "why" });
  const element = h("section", { class: "card dry-run", "aria-labelledby": "dry-run" },
    h("h2", { id: "dry-run" }, t("dry_run")), words, facts, rules);
  return { element, draw };

  function draw(answer, clips) {
    setChildren(words,
      answer.mistakes.map((text) => h("p", { class: "mistake" }, plainMessage(text))),
      answer.warnings.map((text) => h("p", { class: "warning" }, plainMessage(text))),
      !answer.rule && h("p", { class: "warning" }, t("no.rule")));
    const spec = answer.specs[0];
    setChildren(facts, spec ? lines(spec, answer, clips) : []);
    setChildren(rules, answer.rule && ruleVerdict(answer));
  }
}

/** Translate a message, without its position in a file, which a form does not have. */
export function plainMessage(text) {
  return translate(text.replace(/^make(:\d+)?: (warning: )?/, ""));
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
    line("time", cost.seconds === null ? t("time.unknown") : timeOf(cost.seconds, clips)),
  ];
}

function timeOf(seconds, clips) {
  if (clips < 2) return duration(seconds);
  return t("time.all", { one: duration(seconds), n: clips, all: duration(seconds * clips) });
}

function line(key, text, note) {
  return h("div", {}, h("dt", {}, t(key)), h("dd", {}, text, note && h("span", { class: "warning" }, note)));
}

/** Elements for the matching rule, and the reasons why the earlier ones do not match. */
export function ruleVerdict(answer) {
  return [
    h("p", {}, t("rule.takes"), " ", h("strong", {}, answer.rule)),
    answer.rejected_by.length > 0 &&
      h("details", {}, h("summary", {}, t("rule.not", { n: answer.rejected_by.length })),
        h("ul", {}, answer.rejected_by.map(([name, reason]) => h("li", {}, h("strong", {}, name), " – ", translate(reason))))),
  ];
}
