// The frame: header, tabs, themes, languages, and the live status that every view is told.

import { get, watch } from "./api.js";
import { fill, h, say, tell } from "./dom.js";
import { keep, kept } from "./keep.js";
import { said } from "./said.js";
import { duration, language, speak, t } from "./text.js";
import { clipsView } from "./clips.js";
import { failuresView } from "./failures.js";
import { healthView } from "./health.js";
import { makeView } from "./make.js";
import { queueView } from "./queue.js";
import { rulesView } from "./rules.js";

const VIEWS = {
  make: makeView,
  queue: queueView,
  clips: clipsView,
  failures: failuresView,
  rules: rulesView,
  health: healthView,
};
const COUNTED = {
  queue: (jobs) => jobs.queued + jobs.running + jobs.publishing,
  clips: (jobs) => jobs.done,
  failures: (jobs) => jobs.failed,
};

const byId = (id) => document.getElementById(id);
const main = byId("main");
const views = {};
const tabs = {};
let status = null;
let shown = null;

/** What the views share: facts of the daemon, and ways from one view to another. */
const studio = {
  facts: null,
  get status() {
    return status;
  },
  go(name) {
    location.hash = name;
  },
  change(job) {
    studio.go("make");
    show("make");
    views.make.again(job);
  },
};

function show(name) {
  if (shown === name) return;
  if (shown) views[shown].element.hidden = true;
  views[shown]?.hide?.();
  shown = name;
  if (!views[name]) {
    views[name] = VIEWS[name](studio);
    main.append(views[name].element);
  }
  views[name].element.hidden = false;
  for (const [key, tab] of Object.entries(tabs)) {
    tab.ariaCurrent = key === name ? "page" : null;
  }
  document.title = `${t(`nav.${name}`)} · i2vd`;
  views[name].show?.();
  if (status?.jobs) views[name].status?.(status);
}

function route() {
  const name = location.hash.slice(1);
  if (name === "main") return main.focus();
  show(name in VIEWS ? name : "make");
}

// --- header

function note(next) {
  status = next;
  drawStatus();
  drawBanner();
  if (!status?.jobs) return;
  for (const [name, count] of Object.entries(COUNTED)) {
    const n = count(status.jobs);
    say(tabs[name].lastChild, n ? String(n) : "");
  }
  for (const view of Object.values(views)) {
    if (!view.element.hidden || view.always) view.status?.(status);
  }
}

function drawStatus() {
  const line = byId("status");
  line.className = "";
  say(byId("eta"), "");
  if (!status?.jobs) return say(byId("now"), t(status ? "status.trouble" : "status.lost"));
  const { queued, running, publishing } = status.jobs;
  const parts = [];
  if (status.paused) parts.push(t("status.paused"));
  const busy = running + publishing;
  if (busy) parts.push(t("status.running", { n: busy }));
  if (queued) parts.push(t("status.waiting", { n: queued }));
  if ((busy || queued) && status.eta !== null && !status.paused) {
    say(byId("eta"), t("status.eta", { time: duration(status.eta) }));
  }
  if (!parts.length) parts.push(t("status.idle"));
  line.className = status.paused ? "paused" : busy ? "busy" : "idle";
  say(byId("now"), parts.join(" · "));
}

function drawBanner() {
  const banner = byId("banner");
  const problems = status ? status.problems : [t("lost")];
  if (banner.dataset.said === JSON.stringify(problems)) return;
  banner.dataset.said = JSON.stringify(problems);
  fill(banner, problems.length ? [h("strong", {}, t("problems")), h("ul", {}, problems.map((p) => h("li", {}, said(p))))] : []);
}

function drawTabs() {
  const nav = byId("nav");
  nav.setAttribute("aria-label", t("nav"));
  for (const name of Object.keys(VIEWS)) {
    tabs[name] = h("a", { href: `#${name}` }, t(`nav.${name}`), h("span", { class: "count" }));
    nav.append(tabs[name]);
  }
}

function drawSwitches() {
  const other = language === "zh" ? "en" : "zh";
  const languages = byId("language");
  languages.textContent = other === "zh" ? "中文" : "English";
  languages.lang = other === "zh" ? "zh-Hans" : "en";
  languages.onclick = async () => {
    await keep(views.make?.kept()).catch(() => {}); // a private window may store nothing
    speak(other);
  };
  const root = document.documentElement;
  const theme = byId("theme");
  const isDark = () =>
    (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const draw = () => say(theme, t(isDark() ? "theme.light" : "theme.dark"));
  theme.onclick = () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.theme);
    draw();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
}

async function facts() {
  const [presets, rules, about] = await Promise.all([get("/api/presets"), get("/api/rules"), get("/api/about")]);
  return { presets, rules, about };
}

async function begin() {
  document.querySelector(".skip").textContent = t("skip");
  drawTabs();
  drawSwitches();
  while (!studio.facts) {
    try {
      studio.facts = await facts();
    } catch (error) {
      note(error.status ? { problems: [error.message] } : null);
      await new Promise((done) => setTimeout(done, 2000));
    }
  }
  views.make = makeView(studio); // it takes pictures that are dropped on any tab
  views.make.element.hidden = true;
  main.append(views.make.element);
  const form = await kept().catch(() => undefined);
  if (form) views.make.bring(form);
  addEventListener("hashchange", route);
  addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    tell(event.reason?.message ?? String(event.reason), true);
  });
  route();
  watch(note);
}

begin();
