// Progress of a running job: a bar and a line of text.

import { setText } from "./dom.js";
import { duration, labelOf, t } from "./text.js";

/** Show progress in a <progress> element and in a text element. */
export function showProgress(progress, bar, words) {
  const { stage, step, steps, eta } = progress;
  if (stage === "denoise" && steps) {
    bar.max = steps;
    bar.value = step;
  } else if (["decode", "encode_video"].includes(stage)) {
    bar.max = bar.value = 1;
  } else {
    bar.removeAttribute("value");
  }
  const parts = [labelOf("stage", stage)];
  if (stage === "denoise") parts.push(t("step", { step, steps }));
  if (eta !== null && eta !== undefined) parts.push(t("left", { time: duration(eta) }));
  setText(words, parts.join(" · "));
}
