// Clips: a grid of posters that grows as one scrolls. A video exists only while it is looked at.

import { get } from "./api.js";
import { openClip } from "./clip.js";
import { calmly, h, placed, say } from "./dom.js";
import { posterAt } from "./player.js";
import { time, t } from "./text.js";

const PAGE = 48;
const GLANCE = 150; // ms; what is scrolled past faster is not loaded

export function clipsView(studio) {
  const { presets, rules } = studio.facts;
  const grid = h("ul", { class: "grid" });
  const end = h("div", { class: "end" });
  const note = h("p", { class: "empty", "aria-live": "polite" });
  const names = [...new Set(Object.values(rules).flatMap((each) => each.rules))];
  const search = h("input", { type: "search", id: "find", placeholder: t("find.more") });
  const filters = {
    text: search,
    rule: choice("rule", names),
    preset: choice("preset", Object.keys(presets.presets)),
    since: h("input", { type: "date", id: "by-since" }),
    until: h("input", { type: "date", id: "by-until" }),
  };
  const bar = h("form", { class: "filters", role: "search", onsubmit: (event) => event.preventDefault(), oninput: calmly(250, again) },
    Object.entries(filters).map(([key, control]) => h("div", { class: "field" }, h("label", { for: control.id }, t(`find.${key}`)), control)));
  const element = h("section", { "aria-label": t("nav.clips") }, h("h1", {}, t("nav.clips")), bar, grid, end, note);

  const known = new Map();
  let turn = 0; // counts the filters' changes: answers to earlier ones are dropped
  let before;
  let loading = false;
  let whole = false;
  let seen;

  const near = new IntersectionObserver(
    (entries) => entries.forEach(({ target, isIntersecting }) => (isIntersecting ? film : unfilm)(target)),
    { rootMargin: "300px" });
  const bottom = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && more(), { rootMargin: "800px" });
  bottom.observe(end);

  function choice(key, values) {
    return h("select", { id: `by-${key}` }, h("option", { value: "" }, t("all")), values.map((value) => h("option", { value }, value)));
  }

  function wanted() {
    const day = (value, days) => {
      if (!value) return "";
      const [year, month, date] = value.split("-").map(Number);
      return new Date(year, month - 1, date + days).getTime() / 1000;
    };
    return {
      state: "done",
      text: filters.text.value.trim(),
      rule: filters.rule.value,
      preset: filters.preset.value,
      since: day(filters.since.value, 0),
      until: day(filters.until.value, 1),
      limit: PAGE,
    };
  }

  function again() {
    turn++;
    known.clear();
    grid.replaceChildren();
    near.disconnect();
    [before, whole, loading] = [undefined, false, false];
    more();
  }

  async function more() {
    if (loading || whole) return;
    loading = true;
    const mine = turn;
    try {
      const found = await get("/api/jobs", { ...wanted(), before });
      if (mine !== turn) return;
      whole = found.length < PAGE;
      before = found.at(-1)?.id ?? before;
      found.forEach(put);
      tellEmpty();
    } finally {
      if (mine === turn) loading = false;
    }
    bottom.unobserve(end); // observed anew it tells whether the bottom is still near
    bottom.observe(end);
  }

  async function newest() {
    const mine = turn;
    const found = await get("/api/jobs", wanted());
    if (mine !== turn) return;
    const gap = known.size > 0 && found.length === PAGE && !known.has(found.at(-1).id);
    if (gap) return again();
    found.forEach(put);
    tellEmpty();
  }

  function tellEmpty() {
    const { text, rule, preset, since, until } = wanted();
    say(note, known.size ? "" : t([text, rule, preset, since, until].some(Boolean) ? "clips.none" : "clips.empty"));
  }

  /** In the order of their numbers, newest first; a job may be done after a later one. */
  function put(job) {
    if (known.has(job.id)) return;
    known.set(job.id, job);
    const made = card(job);
    let after = null;
    if (Number(grid.lastElementChild?.dataset.job) < job.id) {
      after = grid.firstElementChild;
      while (Number(after.dataset.job) > job.id) after = after.nextElementSibling;
    }
    grid.insertBefore(made, after);
    near.observe(made);
  }

  function card(job) {
    const facts = [`${job.result.width}×${job.result.height}`, job.spec?.preset].filter(Boolean).join(" · ");
    const button = h("button", { type: "button", class: "clip", onclick: () => openClip(job, studio), onmouseenter: play, onfocus: play, onmouseleave: rest, onblur: rest },
      h("span", { class: "frame" }, job.result.poster ? posterOf(job) : null),
      placed(job.path),
      h("span", { class: "dim prompt" }, job.spec?.prompt ?? ""),
      h("span", { class: "dim foot" }, h("span", {}, facts), job.result.degraded && h("span", { class: "chip warn" }, t("degraded")), h("span", {}, time(job.finished))));
    return h("li", { "data-job": job.id }, button);
  }

  /** The clip's own first frame takes the place of a poster that is not here. */
  function posterOf(job) {
    const image = h("img", { loading: "lazy", decoding: "async", alt: "", src: posterAt(job) });
    image.addEventListener("error", () => {
      const frame = image.parentElement;
      job.result.poster = false;
      image.remove();
      video(frame, job.id);
    });
    return image;
  }

  /** Only clips without a poster are loaded before somebody looks at them. */
  function film(target) {
    if (known.get(Number(target.dataset.job)).result.poster) return;
    target.wait = setTimeout(() => target.isConnected && video(target.querySelector(".frame"), target.dataset.job), GLANCE);
  }

  function unfilm(target) {
    clearTimeout(target.wait);
    forget(target.querySelector("video"));
  }

  function video(frame, job) {
    const there = frame.querySelector("video");
    if (there) return there;
    const made = h("video", { preload: "auto", loop: true, playsinline: true, tabindex: -1, "aria-hidden": "true", src: `/api/jobs/${job}/clip#t=0.001` });
    made.muted = true;
    made.addEventListener("error", () => made.replaceWith(h("span", { class: "dim" }, t("clip.gone"))));
    frame.append(made);
    return made;
  }

  function forget(there) {
    if (!there) return;
    there.removeAttribute("src");
    there.load(); // else the connection stays open
    there.remove();
  }

  function play(event) {
    if (!event.currentTarget.matches(":hover, :focus-visible")) return; // a dialog closed, say
    const { job } = event.currentTarget.parentElement.dataset;
    const frame = event.currentTarget.querySelector(".frame");
    if (!frame.querySelector("span")) video(frame, job).play().catch(() => {}); // it may have been left already
  }

  function rest(event) {
    if (event.currentTarget.matches(":hover, :focus-visible")) return;
    const there = event.currentTarget.querySelector("video");
    if (event.currentTarget.querySelector("img")) forget(there);
    else there?.pause();
  }

  function status(now) {
    if (now.jobs.done === seen) return;
    seen = now.jobs.done;
    newest();
  }

  more();
  return { element, status };
}
