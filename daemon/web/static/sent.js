// What was sent from here, followed until its clip is there.

import { get } from "./api.js";
import { openClip } from "./clip.js";
import { fill, h, placed, say } from "./dom.js";
import { player } from "./player.js";
import { progressOf } from "./progress.js";
import { said } from "./said.js";
import { t } from "./text.js";

const ENDED = ["done", "failed", "cancelled"];
const MOST = 20;

/** `{element, begin(item), status(status)}`. */
export function sentList(studio) {
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
    const row = h("li", {}, h("div", { class: "line" }, placed(item.name), state), bar, words, body);
    item.row = row;
    list.prepend(row);
    while (list.children.length > MOST) list.lastChild.remove();
    return {
      progress: (share) => (bar.value = share),
      failed(why) {
        bar.hidden = true;
        say(state, t("state.failed"));
        fill(body, h("p", { class: "mistake" }, why));
      },
      dropped(dropped, after) {
        bar.removeAttribute("value");
        bar.setAttribute("aria-label", t("making.name", { name: item.name }));
        say(state, t("state.dropped"));
        const followed = { ...dropped, after, bar, state, words, body, jobs: [] };
        open.add(followed);
        look(followed);
      },
    };
  }

  async function look(followed) {
    const { inbox, path, after } = followed;
    const found = await get("/api/jobs", { inbox, path, limit: 32 });
    followed.jobs = found.filter((job) => job.id > after);
    draw(followed);
  }

  function draw(followed) {
    const { jobs, state, bar, words, body } = followed;
    if (!jobs.length) return;
    const left = jobs.filter((job) => !ENDED.includes(job.state));
    const now = jobs.find((job) => job.state === "running") ?? left.at(-1) ?? jobs[0];
    const word = t(`state.${now.state}`);
    const ended = jobs.length - left.length;
    say(state, jobs.length > 1 ? `${word} · ${ended}/${jobs.length}` : word);
    if (left.length || !open.delete(followed)) return;
    bar.hidden = words.hidden = true;
    const made = jobs.filter((job) => job.state === "done");
    const bad = jobs.find((job) => job.state === "failed");
    fill(body,
      made.slice(0, 4).map((job) => h("div", { class: "result" }, player(job),
        h("button", { type: "button", class: "quiet", onclick: () => openClip(job, studio) }, t("details")))),
      bad && h("p", { class: "mistake" }, said(bad.error)));
  }

  function status(now) {
    for (const followed of open) {
      const slot = now.slots.find((each) => followed.jobs.some((job) => job.id === each.job));
      if (slot?.progress) progressOf(slot.progress, followed.bar, followed.words);
    }
    const mark = JSON.stringify([now.jobs, now.changed]);
    if (mark === seen) return;
    seen = mark;
    for (const followed of open) look(followed);
  }

  return { element, begin, status };
}
