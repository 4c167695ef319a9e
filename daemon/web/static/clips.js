// Clips: a grid of posters with endless scrolling. Videos are loaded only while they are in view.

import { get } from "./api.js";
import { openClip } from "./clip.js";
import { debounce, h, pathLabel, setText } from "./dom.js";
import { posterUrl } from "./player.js";
import { t, time } from "./text.js";

const PAGE_SIZE = 48;
const LOAD_DELAY_MS = 150; // clips that are scrolled past sooner are not loaded

export function clipsView(app) {
  const { presets, rules } = app.facts;
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
  const bar = h("form", { class: "filters", role: "search", onsubmit: (event) => event.preventDefault(), oninput: debounce(250, reload) },
    Object.entries(filters).map(([key, control]) => h("div", { class: "field" }, h("label", { for: control.id }, t(`find.${key}`)), control)));
  const element = h("section", { "aria-label": t("nav.clips") }, h("h1", {}, t("nav.clips")), bar, grid, end, note);

  const known = new Map();
  let generation = 0; // incremented when the filters change: older responses are dropped
  let before;
  let loading = false;
  let complete = false;
  let seen;

  const near = new IntersectionObserver(
    (entries) => entries.forEach(({ target, isIntersecting }) => (isIntersecting ? loadVideo : unloadVideo)(target)),
    { rootMargin: "300px" });
  const bottom = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && loadMore(), { rootMargin: "800px" });
  bottom.observe(end);

  function choice(key, values) {
    return h("select", { id: `by-${key}` }, h("option", { value: "" }, t("all")), values.map((value) => h("option", { value }, value)));
  }

  function query() {
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
      limit: PAGE_SIZE,
    };
  }

  function reload() {
    generation++;
    known.clear();
    grid.replaceChildren();
    near.disconnect();
    [before, complete, loading] = [undefined, false, false];
    loadMore();
  }

  async function loadMore() {
    if (loading || complete) return;
    loading = true;
    const mine = generation;
    try {
      const found = await get("api/jobs", { ...query(), before });
      if (mine !== generation) return;
      complete = found.length < PAGE_SIZE;
      before = found.at(-1)?.id ?? before;
      found.forEach(insert);
      updateNote();
    } finally {
      if (mine === generation) loading = false;
    }
    bottom.unobserve(end); // observing again reports whether the bottom is still near
    bottom.observe(end);
  }

  async function loadNewest() {
    const mine = generation;
    const found = await get("api/jobs", query());
    if (mine !== generation) return;
    const gap = known.size > 0 && found.length === PAGE_SIZE && !known.has(found.at(-1).id);
    if (gap) return reload();
    found.forEach(insert);
    updateNote();
  }

  function updateNote() {
    const { text, rule, preset, since, until } = query();
    setText(note, known.size ? "" : t([text, rule, preset, since, until].some(Boolean) ? "clips.none" : "clips.empty"));
  }

  /** Insert a card by job number, newest first; a job may finish after a later one. */
  function insert(job) {
    if (known.has(job.id)) return;
    known.set(job.id, job);
    const item = card(job);
    let after = null;
    if (Number(grid.lastElementChild?.dataset.job) < job.id) {
      after = grid.firstElementChild;
      while (Number(after.dataset.job) > job.id) after = after.nextElementSibling;
    }
    grid.insertBefore(item, after);
    near.observe(item);
  }

  function card(job) {
    const facts = [`${job.result.width}×${job.result.height}`, job.spec?.preset].filter(Boolean).join(" · ");
    const button = h("button", { type: "button", class: "clip", onclick: () => openClip(job, app), onmouseenter: play, onfocus: play, onmouseleave: stop, onblur: stop },
      h("span", { class: "frame" }, job.result.poster ? posterOf(job) : null),
      pathLabel(job.path),
      h("span", { class: "dim prompt" }, job.spec?.prompt ?? ""),
      h("span", { class: "dim foot" }, h("span", {}, facts), job.result.degraded && h("span", { class: "chip warn" }, t("degraded")), h("span", {}, time(job.finished))));
    return h("li", { "data-job": job.id }, button);
  }

  /** A poster; if it is missing, the clip's first frame replaces it. */
  function posterOf(job) {
    const image = h("img", { loading: "lazy", decoding: "async", alt: "", src: posterUrl(job) });
    image.addEventListener("error", () => {
      const frame = image.parentElement;
      job.result.poster = false;
      image.remove();
      addVideo(frame, job.id);
    });
    return image;
  }

  /** Only clips without a poster are loaded before they are played. */
  function loadVideo(target) {
    if (known.get(Number(target.dataset.job)).result.poster) return;
    target.wait = setTimeout(() => target.isConnected && addVideo(target.querySelector(".frame"), target.dataset.job), LOAD_DELAY_MS);
  }

  function unloadVideo(target) {
    clearTimeout(target.wait);
    removeVideo(target.querySelector("video"));
  }

  function addVideo(frame, job) {
    const existing = frame.querySelector("video");
    if (existing) return existing;
    const video = h("video", { preload: "auto", loop: true, playsinline: true, tabindex: -1, "aria-hidden": "true", src: `api/jobs/${job}/clip#t=0.001` });
    video.muted = true;
    video.addEventListener("error", () => video.replaceWith(h("span", { class: "dim" }, t("clip.gone"))));
    frame.append(video);
    return video;
  }

  function removeVideo(video) {
    if (!video) return;
    video.removeAttribute("src");
    video.load(); // else the connection stays open
    video.remove();
  }

  function play(event) {
    if (!event.currentTarget.matches(":hover, :focus-visible")) return; // for example after a dialog closed
    const { job } = event.currentTarget.parentElement.dataset;
    const frame = event.currentTarget.querySelector(".frame");
    if (!frame.querySelector("span")) addVideo(frame, job).play().catch(() => {}); // the pointer may have left already
  }

  function stop(event) {
    if (event.currentTarget.matches(":hover, :focus-visible")) return;
    const video = event.currentTarget.querySelector("video");
    if (event.currentTarget.querySelector("img")) removeVideo(video);
    else video?.pause();
  }

  function status(now) {
    if (now.jobs.done === seen) return;
    seen = now.jobs.done;
    loadNewest();
  }

  loadMore();
  return { element, status };
}
