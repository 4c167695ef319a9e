// Application shell: header, tabs, theme, language, and the live status for every view.

import { get, watchStatus } from "./api.js";
import { h, setChildren, setText, showToast } from "./dom.js";
import { saveForm, takeForm } from "./form_storage.js";
import { translate } from "./messages.js";
import { duration, language, setLanguage, t } from "./text.js";
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

/** Shared by the views: facts about the daemon, and navigation between views. */
const app = {
  facts: null,
  get status() {
    return status;
  },
  go(name) {
    location.hash = name;
  },
  change(job) {
    app.go("make");
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
    views[name] = VIEWS[name](app);
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

function onStatus(next) {
  status = next;
  drawStatus();
  drawBanner();
  if (!status?.jobs) return;
  for (const [name, count] of Object.entries(COUNTED)) {
    const n = count(status.jobs);
    setText(tabs[name].lastChild, n ? String(n) : "");
  }
  for (const view of Object.values(views)) {
    if (!view.element.hidden || view.always) view.status?.(status);
  }
}

function drawStatus() {
  const line = byId("status");
  line.className = "";
  setText(byId("eta"), "");
  if (!status?.jobs) return setText(byId("now"), t(status ? "status.trouble" : "status.lost"));
  const { queued, running, publishing } = status.jobs;
  const parts = [];
  if (status.paused) parts.push(t("status.paused"));
  const busy = running + publishing;
  if (busy) parts.push(t("status.running", { n: busy }));
  if (queued) parts.push(t("status.waiting", { n: queued }));
  if ((busy || queued) && status.eta !== null && !status.paused) {
    setText(byId("eta"), t("status.eta", { time: duration(status.eta) }));
  }
  if (!parts.length) parts.push(t("status.idle"));
  line.className = status.paused ? "paused" : busy ? "busy" : "idle";
  setText(byId("now"), parts.join(" · "));
}

function drawBanner() {
  const banner = byId("banner");
  const problems = status ? status.problems : [t("lost")];
  if (banner.dataset.problems === JSON.stringify(problems)) return;
  banner.dataset.problems = JSON.stringify(problems);
  setChildren(banner, problems.length ? [h("strong", {}, t("problems")), h("ul", {}, problems.map((p) => h("li", {}, translate(p))))] : []);
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
    await saveForm(views.make?.save()).catch(() => {}); // storage may be disabled in a private window
    setLanguage(other);
  };
  const root = document.documentElement;
  const theme = byId("theme");
  const isDark = () =>
    (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const draw = () => setText(theme, t(isDark() ? "theme.light" : "theme.dark"));
  theme.onclick = () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.theme);
    draw();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
}

async function loadFacts() {
  const [presets, rules, about] = await Promise.all([get("api/presets"), get("api/rules"), get("api/about")]);
  return { presets, rules, about };
}

async function start() {
  document.querySelector(".skip").textContent = t("skip");
  drawTabs();
  drawSwitches();
  while (!app.facts) {
    try {
      app.facts = await loadFacts();
    } catch (error) {
      onStatus(error.status ? { problems: [error.message] } : null);
      await new Promise((done) => setTimeout(done, 2000));
    }
  }
  views.make = makeView(app); // accepts pictures that are dropped on any tab
  views.make.element.hidden = true;
  main.append(views.make.element);
  const form = await takeForm().catch(() => undefined);
  if (form) views.make.restore(form);
  addEventListener("hashchange", route);
  addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    showToast(event.reason?.message ?? String(event.reason), true);
  });
  route();
  watchStatus(onStatus);
}

start();
