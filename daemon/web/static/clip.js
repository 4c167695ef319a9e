// Dialog of one clip: the video, the requested and the applied settings, and the job's events.

import { get, newKey, post, withRetries } from "./api.js";
import { buttonAction, h, showToast } from "./dom.js";
import { settingsOf } from "./fields.js";
import { player } from "./player.js";
import { translate } from "./messages.js";
import { bytes, duration, labelOf, t, time } from "./text.js";

const SHOWN = ["prompt", "negative_prompt", "preset", "width", "height", "frames", "fps", "motion_fps", "steps",
  "guidance", "guidance_rescale", "sampler", "spacing", "speed", "framing", "seed", "quality", "encoder", "fallback"];

/** Open the dialog of a finished job. */
export async function openClip(job, app) {
  const facts = h("div", { class: "facts" }, h("p", { class: "note" }, t("reading")));
  const close = h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, t("close"));
  const dialog = h("dialog", { class: "clip-dialog", "aria-labelledby": "clip-name" },
    h("div", { class: "head" }, h("h2", { id: "clip-name" }, job.path), close),
    h("div", { class: "beside" },
      h("div", {}, h("div", { class: "shown" }, player(job, { autoplay: true })), actions(job, app, () => dialog.close())),
      facts));
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
  try {
    const [sidecar, events] = await Promise.all([get(`api/jobs/${job.id}/sidecar`), get(`api/jobs/${job.id}/events`)]);
    facts.replaceChildren(...details(job, sidecar, events));
  } catch (error) {
    facts.replaceChildren(h("p", { class: "mistake" }, error.message));
  }
}

function actions(job, app, close) {
  const key = newKey();
  const again = async () => {
    const make = settingsOf(job.spec, app.facts.presets.multiple);
    delete make.seed; // the same seed would give the same clip
    await withRetries(() => post(`api/jobs/${job.id}/again`, { make }, key));
    close();
    showToast(t("again.done", { name: job.path }));
  };
  const change = () => {
    close();
    app.change(job);
  };
  return h("div", { class: "actions" },
    h("a", { class: "button primary", href: `api/jobs/${job.id}/clip`, download: "" }, t("download")),
    h("a", { class: "button", href: `api/jobs/${job.id}/sidecar`, target: "_blank", rel: "noopener" }, t("sidecar")),
    h("button", { type: "button", onclick: buttonAction(again) }, t("again")),
    h("button", { type: "button", onclick: change }, t("again.change")));
}

function details(job, sidecar, events) {
  const { requested, applied, output } = sidecar;
  const seconds = Object.values(sidecar.seconds).reduce((sum, each) => sum + each, 0);
  return [
    sidecar.degraded && h("p", { class: "warning" }, t("degraded.details")),
    ...Object.entries(sidecar.unread ?? {}).map(([key, text]) =>
      h("p", { class: "warning" }, t("unread", { key: labelOf("set", key), text }))),
    h("table", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("setting")), h("th", { scope: "col" }, t("requested")), h("th", { scope: "col" }, t("applied")))),
      h("tbody", {}, SHOWN.filter((key) => requested[key] !== null && requested[key] !== "").map((key) => {
        const got = applied[key] ?? requested[key];
        return h("tr", { class: got === requested[key] ? "same" : "differs" },
          h("th", { scope: "row" }, labelOf("set", key)), h("td", {}, String(requested[key])), h("td", {}, String(got)));
      }))),
    h("dl", { class: "facts" },
      line("mode", `${applied.mode}, ${applied.dtype}`),
      line("rule", sidecar.rule?.name ?? "–"),
      line("model", sidecar.model.id),
      line("device", sidecar.device),
      job.owner && line("host", job.owner.split(" ")[0]),
      line("took", duration(seconds) + (sidecar.peak_memory ? `, ${bytes(sidecar.peak_memory)}` : "")),
      line("file", `${bytes(output.size)}, ${output.width}×${output.height}, ${output.duration.toFixed(1)} s`),
      line("path", job.result.clip)),
    sidecar.fallbacks.length > 0 && h("section", {}, h("h3", {}, t("fallbacks")),
      h("ol", {}, sidecar.fallbacks.map((step) =>
        h("li", {}, `${step.tried.width}×${step.tried.height}, ${step.tried.frames}, ${step.tried.mode}: ${translate(step.reason)}`)))),
    h("details", {}, h("summary", {}, t("story")),
      h("ol", { class: "story" }, events.map((each) => h("li", {}, h("time", {}, time(each.at)), " ", labelOf("event", each.event), " ", h("span", { class: "dim" }, translate(each.detail)))))),
  ].filter(Boolean);
}

function line(key, text) {
  return h("div", {}, h("dt", {}, t(key)), h("dd", {}, text));
}
