// Health: readiness, devices, hosts, the model's memory requirements, folders, versions.

import { get } from "./api.js";
import { h, setChildren, table } from "./dom.js";
import { hostsCard } from "./hosts.js";
import { translate } from "./messages.js";
import { bytes, duration, labelOf, t } from "./text.js";

export function healthView(app) {
  const state = h("div", { class: "card ready" });
  const workers = h("div", { class: "card" });
  const hosts = hostsCard();
  const needs = h("div", { class: "card" });
  const folders = h("div", { class: "card" });
  const element = h("section", { "aria-label": t("nav.health") },
    h("h1", {}, t("nav.health")), h("div", { class: "stack" }, state, hosts.element, workers, needs, folders));
  let about = app.facts.about;

  async function load() {
    hosts.show();
    const [newAbout, presets] = await Promise.all([get("api/about"), get("api/presets")]);
    about = newAbout;
    drawNeeds(presets);
    drawFolders();
    if (app.status?.jobs) status(app.status);
  }

  function status(now) {
    const good = !now.problems.length;
    state.classList.toggle("bad", !good);
    const words = [h("h2", {}, t(good ? "health.good" : "health.bad")), ...now.problems.map((text) => h("p", { class: "mistake" }, translate(text)))];
    if (state.textContent !== words.map((each) => each.textContent).join("")) setChildren(state, words);
    setChildren(workers, h("h2", {}, t("health.devices")),
      table(t("health.devices"), ["device", "name", "memory", "type", "doing", "process"].map((key) => t(`col.${key}`)), now.slots.map((slot) => {
        const worker = about.workers.find((each) => each.device === slot.device);
        return [slot.device, worker?.name ?? "–", worker?.memory ? bytes(worker.memory) : "–", worker?.dtype ?? "–", slot.path ?? t("slot.free"), String(slot.pid ?? "–")];
      })),
      h("p", { class: "dim" }, [`i2vd ${about.version}`, `Python ${about.python}`, ...versions()].join(" · ")));
  }

  function versions() {
    return Object.entries(about.workers.find((each) => each.name)?.versions ?? {}).map((pair) => pair.join(" "));
  }

  /** A row for each preset, a column for each mode; the time is that of the first measured mode. */
  function drawNeeds(presets) {
    const modes = [...new Set(presets.needs.map((row) => row.mode))];
    const lossy = (mode) => presets.needs.some((row) => row.mode === mode && !row.exact);
    const title = t("health.model", { model: presets.model });
    setChildren(needs, h("h2", {}, title),
      table(title, [t("col.preset"), ...modes.map((mode) => (lossy(mode) ? `${mode} (${t("lossy")})` : mode)), t("col.time")],
        Object.keys(presets.presets).map((preset) => {
          const of = modes.map((mode) => presets.needs.find((row) => row.preset === preset && row.mode === mode));
          const made = of.find((row) => row && row.seconds !== null);
          return [preset, ...of.map(need), made ? duration(made.seconds) : "–"];
        })),
      h("p", { class: "dim" }, t("health.needs")));
  }

  function need(row) {
    if (!row) return "–";
    const measured = row.measured_bytes !== null;
    const text = bytes(measured ? row.measured_bytes : row.predicted_bytes);
    return h("span", { class: row.fits ? "" : "unfit" }, measured ? h("strong", {}, text) : text, row.fits ? "" : ` ${t("unfit")}`);
  }

  function drawFolders() {
    const free = (folder) => (folder.free === null ? t("away") : bytes(folder.free));
    const line = (folder) => [labelOf("role", folder.role), folder.path, free(folder)];
    const heads = ["folder", "path", "free"].map((key) => t(`col.${key}`));
    setChildren(folders, h("h2", {}, t("health.folders")),
      about.inboxes.map((inbox, index) => [
        about.inboxes.length > 1 && h("h3", {}, inbox.name),
        h("p", { class: "dim" }, [labelOf("watch", inbox.watch), labelOf("on_success", inbox.on_success), inbox.unmatched && t("unmatched", { n: inbox.unmatched })].filter(Boolean).join(" · ")),
        table(inbox.name, heads, [...inbox.folders, ...(index ? [] : [about.state])].map(line)),
      ]));
  }

  return { element, status, show: load, hide: hosts.hide };
}
