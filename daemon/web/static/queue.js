// Queue: running, held up and queued jobs; cancel, retry, reprioritise, pause.

import { get, post } from "./api.js";
import { buttonAction, h, pathLabel, setText, syncRows } from "./dom.js";
import { translate } from "./messages.js";
import { showProgress } from "./progress.js";
import { duration, t } from "./text.js";

const PAGE_SIZE = 100;
const MAX_PRIORITY = 100;

export function queueView(app) {
  const summary = h("p", { class: "summary" });
  const pause = h("button", { type: "button", onclick: buttonAction(toggle) });
  const running = h("ul", { class: "running" });
  const waiting = h("ol", { class: "list waiting", onkeydown: onKey });
  const held = h("ul", { class: "list held" });
  const heldHead = h("h2", {}, t("queue.held"));
  const more = h("p", { class: "note" });
  const empty = h("p", { class: "empty" }, t("queue.empty"));
  const element = h("section", { "aria-label": t("nav.queue") },
    h("div", { class: "head" }, h("h1", {}, t("nav.queue")), summary, pause),
    h("h2", {}, t("queue.running")), running, heldHead, held,
    h("div", { class: "line" }, h("h2", {}, t("queue.waiting")), h("p", { class: "note keys" }, t("queue.keys"))), waiting, more, empty);
  let seen = "";
  let paused = false;
  let jobs = [];

  async function toggle() {
    await post(paused ? "api/resume" : "api/pause");
  }

  function status(now) {
    paused = now.paused;
    setText(pause, t(paused ? "resume" : "pause"));
    pause.className = paused ? "primary" : "";
    const eta = now.eta === null || !(now.jobs.queued + now.jobs.running) ? "" : t("queue.eta", { time: duration(now.eta) });
    setText(summary, paused ? t("queue.paused") : eta);
    const elsewhere = now.elsewhere.map((job) => ({ ...job, device: job.host }));
    syncRows(running, [...now.slots, ...elsewhere], (slot) => `${slot.device} ${slot.job}`, slotRow);
    const mark = JSON.stringify([now.jobs.queued, now.changed]);
    if (mark === seen) return;
    seen = mark;
    load();
  }

  async function load() {
    const [queued, stuck] = await Promise.all([
      get("api/queue", { limit: PAGE_SIZE }), get("api/jobs", { waiting: true, limit: PAGE_SIZE })]);
    jobs = queued;
    syncRows(held, stuck, (job) => `${job.id} ${job.state}`, heldRow);
    held.hidden = heldHead.hidden = stuck.length === 0;
    syncRows(waiting, jobs, (job) => job.id, waitingRow);
    const rest = (app.status?.jobs?.queued ?? 0) - jobs.length;
    setText(more, rest > 0 ? t("queue.more", { n: rest }) : "");
    empty.hidden = jobs.length > 0;
  }

  function slotRow(slot) {
    const device = h("span", { class: "device" }, slot.device);
    if (!slot.job) {
      return { element: h("li", { class: "card free" }, device, h("span", { class: "note" }, t("slot.free"))) };
    }
    const bar = h("progress", { "aria-label": t("making.name", { name: slot.path }) });
    const words = h("span", { class: "state" }, t("state.running"));
    const cancel = h("button", { type: "button", onclick: buttonAction(() => cancelJob(slot.job)), "aria-label": `${t("cancel")}: ${slot.path}` }, t("cancel"));
    const strip = h("img", { alt: t("preview.of", { name: slot.path }) });
    const live = h("div", { class: "live", hidden: true }, strip);
    let version = 0; // of the preview that is shown
    const picture = h("img", { src: `api/jobs/${slot.job}/picture`, alt: "", width: 72, height: 72, class: "small", onerror: (event) => (event.target.hidden = true) });
    strip.addEventListener("load", () => ([live.hidden, picture.hidden] = [false, true]));
    const row = h("li", { class: "card" }, picture, live,
      h("div", { class: "grow" },
        h("div", { class: "line" }, pathLabel(slot.path), device),
        bar, words),
      cancel);
    return {
      element: row,
      update(next) {
        if (next.progress) showProgress(next.progress, bar, words);
        if (next.preview_version === version) return;
        version = next.preview_version;
        if (version) strip.src = `api/jobs/${slot.job}/preview?${version}`;
      },
    };
  }

  /** A job that waits for a reason of its own, or whose picture cannot leave the inbox. */
  function heldRow(job) {
    const reason = h("p", { class: "mistake" });
    const isOpen = ["queued", "publishing"].includes(job.state);
    const retry = h("button", { type: "button", onclick: buttonAction(() => retryJob(job.id)), "aria-label": `${t("retry")}: ${job.path}` }, t("retry"));
    const cancel = h("button", { type: "button", onclick: buttonAction(() => cancelJob(job.id)), "aria-label": `${t("cancel")}: ${job.path}` }, t("cancel"));
    return {
      element: h("li", {},
        h("div", { class: "grow" }, pathLabel(job.path), reason),
        h("span", { class: "chip" }, t(`state.${job.state}`)), isOpen && h("div", { class: "pair-of" }, retry, cancel)),
      update(next) {
        setText(reason, translate(isOpen ? next.error : next.archival_error));
      },
    };
  }

  function waitingRow(job) {
    const priority = h("span", { class: "chip" });
    const sooner = h("button", { type: "button", onclick: buttonAction(() => prioritise(job)), "aria-label": `${t("sooner")}: ${job.path}` }, t("sooner"));
    const cancel = h("button", { type: "button", onclick: buttonAction(() => cancelJob(job.id)), "aria-label": `${t("cancel")}: ${job.path}` }, t("cancel"));
    const row = h("li", {},
      h("div", { class: "grow" },
        pathLabel(job.path), job.variant > 1 && h("span", { class: "chip" }, t("variant", { n: job.variant })),
        h("span", { class: "dim" }, job.spec?.prompt)),
      priority, h("span", { class: "chip" }, job.spec?.preset), h("div", { class: "pair-of" }, sooner, cancel));
    return {
      element: row,
      update(next) {
        priority.hidden = !next.priority;
        setText(priority, t("priority.is", { n: next.priority }));
      },
    };
  }

  async function prioritise(job) {
    const first = Math.max(...jobs.map((other) => other.priority), 0);
    await post(`api/jobs/${job.id}/priority`, { priority: Math.min(MAX_PRIORITY, first + 1) });
    await load();
  }

  async function retryJob(job) {
    await post(`api/jobs/${job}/retry`);
    await load();
  }

  async function cancelJob(job) {
    await post(`api/jobs/${job}/cancel`);
    await load();
  }

  /** Arrow keys move to the same button of the next row; Delete cancels. */
  function onKey(event) {
    const row = event.target.closest("li");
    const buttons = (of) => [...of.querySelectorAll("button")];
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    if (step && row[step]) {
      buttons(row[step])[buttons(row).indexOf(event.target)]?.focus();
      event.preventDefault();
    } else if (event.key === "Delete") {
      buttons(row).at(-1).click();
    }
  }

  return { element, status, show: load };
}
