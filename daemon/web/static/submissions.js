// Submissions of this page, each followed until its clip is finished.

import { get } from "./api.js";
import { openClip } from "./clip.js";
import { h, pathLabel, setChildren, setText } from "./dom.js";
import { player } from "./player.js";
import { showProgress } from "./progress.js";
import { translate } from "./messages.js";
import { t } from "./text.js";

const FINAL_STATES = ["done", "failed", "cancelled"];
const MAX_ROWS = 20;

/** Returns `{element, begin(item), status(status)}`. */
export function submissionList(app) {
  const list = h("ol", { class: "sent" });
  const element = h("section", { class: "card", hidden: true, "aria-labelledby": "sent" },
    h("h2", { id: "sent" }, t("sent")), list);
  const open = new Set();
  let seen = "";

  function begin(item) {
    element.hidden = false;
    item.row?.remove();
    const bar = h("progress", { max: 1, value: 0, "aria-label": t("sending.name", { name: item.name }) });
    const state = h("span", { class: "state", "aria-live": "polite" }, t("sending"));
    const words = h("span", { class: "state" });
    const body = h("div");
    const row = h("li", {}, h("div", { class: "line" }, pathLabel(item.name), state), bar, words, body);
    item.row = row;
    list.prepend(row);
    while (list.children.length > MAX_ROWS) list.lastChild.remove();
    return {
      progress: (share) => (bar.value = share),
      failed(reason) {
        bar.hidden = true;
        setText(state, t("state.failed"));
        setChildren(body, h("p", { class: "mistake" }, reason));
      },
      dropped(dropped, after) {
        bar.removeAttribute("value");
        bar.setAttribute("aria-label", t("making.name", { name: item.name }));
        setText(state, t("state.dropped"));
        const followed = { ...dropped, after, bar, state, words, body, jobs: [] };
        open.add(followed);
        update(followed);
      },
    };
  }

  async function update(followed) {
    const { inbox, path, after } = followed;
    const found = await get("api/jobs", { inbox, path, limit: 32 });
    followed.jobs = found.filter((job) => job.id > after);
    draw(followed);
  }

  function draw(followed) {
    const { jobs, state, bar, words, body } = followed;
    if (!jobs.length) return;
    const left = jobs.filter((job) => !FINAL_STATES.includes(job.state));
    const now = jobs.find((job) => job.state === "running") ?? left.at(-1) ?? jobs[0];
    const word = t(`state.${now.state}`);
    const ended = jobs.length - left.length;
    setText(state, jobs.length > 1 ? `${word} · ${ended}/${jobs.length}` : word);
    if (left.length || !open.delete(followed)) return;
    bar.hidden = words.hidden = true;
    const made = jobs.filter((job) => job.state === "done");
    const bad = jobs.find((job) => job.state === "failed");
    setChildren(body,
      made.slice(0, 4).map((job) => h("div", { class: "result" }, player(job),
        h("button", { type: "button", class: "quiet", onclick: () => openClip(job, app) }, t("details")))),
      bad && h("p", { class: "mistake" }, translate(bad.error)));
  }

  function status(now) {
    for (const followed of open) {
      const slot = now.slots.find((each) => followed.jobs.some((job) => job.id === each.job));
      if (slot?.progress) showProgress(slot.progress, followed.bar, followed.words);
    }
    const mark = JSON.stringify([now.jobs, now.changed]);
    if (mark === seen) return;
    seen = mark;
    for (const followed of open) update(followed);
  }

  return { element, begin, status };
}
