// Progress of a running clip: a bar, and a line of words.

import { say } from "./dom.js";
import { duration, named, t } from "./text.js";

/** Show it in a <progress> and in an element for words. */
export function progressOf(progress, bar, words) {
  const { stage, step, steps, eta } = progress;
  if (stage === "denoise" && steps) {
    bar.max = steps;
    bar.value = step;
  } else if (["decode", "write"].includes(stage)) {
    bar.max = bar.value = 1;
  } else {
    bar.removeAttribute("value");
  }
  const parts = [named("stage", stage)];
  if (stage === "denoise") parts.push(t("step", { step, steps }));
  if (eta !== null && eta !== undefined) parts.push(t("left", { time: duration(eta) }));
  say(words, parts.join(" · "));
}
