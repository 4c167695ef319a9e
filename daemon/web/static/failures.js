// Failures: failed and cancelled jobs, their reason, advice, and retry; skipped files.

import { get, post } from "./api.js";
import { buttonAction, h, pathLabel, setText, showToast, syncRows } from "./dom.js";
import { translate } from "./messages.js";
import { skippedFiles } from "./skipped.js";
import { t, time } from "./text.js";

const PAGE_SIZE = 50;

export function failuresView(app) {
  const kind = h("select", { id: "kind", onchange: () => load() },
    h("option", { value: "failed" }, t("state.failed")), h("option", { value: "cancelled" }, t("state.cancelled")));
  const all = h("button", { type: "button", onclick: buttonAction(retryAll) }, t("retry.all"));
  const list = h("ul", { class: "list failures" });
  const empty = h("p", { class: "empty" });
  const skipped = skippedFiles();
  const more = h("button", { type: "button", onclick: buttonAction(() => load(jobs.length + PAGE_SIZE)) }, t("more"));
  const element = h("section", { "aria-label": t("nav.failures") },
    h("div", { class: "head" }, h("h1", {}, t("nav.failures")),
      h("div", { class: "field row" }, h("label", { for: "kind" }, t("show")), kind), all),
    list, more, empty, skipped.element);
  let jobs = [];
  let seen;

  async function load(limit = Math.max(PAGE_SIZE, jobs.length)) {
    const state = kind.value;
    const found = await get("api/jobs", { state, limit: Math.min(limit, 1000) });
    if (state !== kind.value) return;
    jobs = found;
    syncRows(list, jobs, (job) => `${job.id} ${job.finished}`, row);
    setText(empty, jobs.length ? "" : t(`${state}.none`));
    all.hidden = !jobs.some(canRetry);
    more.hidden = jobs.length < limit || limit >= 1000;
  }

  function row(job) {
    const again = h("button", { type: "button", onclick: buttonAction(() => retry(job)), "aria-label": `${t("retry")}: ${job.path}` }, t("retry"));
    const change = h("button", { type: "button", onclick: () => app.change(job), "aria-label": `${t("again.change")}: ${job.path}` }, t("again.change"));
    return {
      element: h("li", { class: "card" },
        job.sha256 && h("img", { class: "small", loading: "lazy", width: 104, height: 104, alt: "", src: `api/jobs/${job.id}/picture`, onerror: (event) => (event.target.hidden = true) }),
        h("div", { class: "grow" },
          pathLabel(job.path),
          h("p", { class: job.state === "failed" ? "mistake" : "dim" }, translate(job.error)),
          h("p", {}, advice(job)),
          h("p", { class: "dim" }, [t("job.is", { n: job.id }), time(job.finished), job.picture_path].filter(Boolean).join(" · "))),
        canRetry(job) && h("div", { class: "buttons" }, again, job.spec && change)),
    };
  }

  /** A picture that was rejected at intake can be dropped again while it is in the failed folder. */
  function canRetry(job) {
    return job.spec || job.picture_location === "failed";
  }

  function advice(job) {
    if (!job.spec && job.picture_location !== "failed") return "";
    if (!job.spec) return t(job.sha256 ? "do.sidecar" : "do.picture");
    if (["gone", "deleted"].includes(job.picture_location)) return t("do.drop");
    return t(job.state === "failed" ? "do.retry" : "do.cancelled");
  }

  async function retry(job) {
    const { state } = await post(`api/jobs/${job.id}/retry`);
    if (state === "failed") showToast(t("retry.dropped"));
    await load();
  }

  /** Retry all jobs, also those that are not shown; a refused job does not stop the others. */
  async function retryAll() {
    const { queued, refused } = await post("api/retry", { state: kind.value });
    showToast([t("retry.done", { n: queued }), translate(refused[0])].filter(Boolean).join(" · "), refused.length > 0);
    await load();
  }

  function status(now) {
    skipped.status(now);
    const mark = JSON.stringify([now.jobs, now.changed]); // if a job fails again, the counts do not change
    if (mark === seen) return;
    seen = mark;
    load();
  }

  return { element, status, show: skipped.load };
}
