// Health: whether all is well, devices, the model and its needs, folders, versions.

import { get } from "./api.js";
import { fill, h, table } from "./dom.js";
import { hostsCard } from "./hosts.js";
import { bytes, duration, named, t } from "./text.js";

export function healthView(studio) {
  const state = h("div", { class: "card ready" });
  const workers = h("div", { class: "card" });
  const hosts = hostsCard();
  const needs = h("div", { class: "card" });
  const folders = h("div", { class: "card" });
  const element = h("section", { "aria-label": t("nav.health") },
    h("h1", {}, t("nav.health")), h("div", { class: "stack" }, state, hosts.element, workers, needs, folders));
  let about = studio.facts.about;

  async function load() {
    hosts.show();
    const [told, presets] = await Promise.all([get("/api/about"), get("/api/presets")]);
    about = told;
    drawNeeds(presets);
    drawFolders();
    if (studio.status?.jobs) status(studio.status);
  }

  function status(now) {
    const good = !now.problems.length;
    state.classList.toggle("bad", !good);
    const words = [h("h2", {}, t(good ? "health.good" : "health.bad")), ...now.problems.map((text) => h("p", { class: "mistake" }, text))];
    if (state.textContent !== words.map((each) => each.textContent).join("")) fill(state, words);
    fill(workers, h("h2", {}, t("health.devices")),
      table(t("health.devices"), ["device", "name", "type", "doing", "process"], now.slots.map((slot) => {
        const worker = about.workers.find((each) => each.device === slot.device);
        return [slot.device, worker?.name ?? "–", worker?.dtype ?? "–", slot.path ?? t("slot.free"), slot.pid ?? "–"];
      })),
      h("p", { class: "dim" }, [`i2vd ${about.version}`, `Python ${about.python}`, ...versions()].join(" · ")));
  }

  function versions() {
    return Object.entries(about.workers.find((each) => each.name)?.versions ?? {}).map((pair) => pair.join(" "));
  }

  function drawNeeds(presets) {
    fill(needs, h("h2", {}, t("health.model", { model: presets.model })),
      table(t("health.model", { model: presets.model }), ["preset", "mode", "predicted", "measured", "time", "fits"], presets.needs.map((row) => [
        row.preset, row.exact ? row.mode : `${row.mode} (${t("lossy")})`, bytes(row.predicted_bytes),
        row.measured_bytes === null ? "–" : bytes(row.measured_bytes),
        row.seconds === null ? "–" : duration(row.seconds), t(row.fits ? "yes" : "no")])));
  }

  function drawFolders() {
    const free = (folder) => (folder.free === null ? t("away") : bytes(folder.free));
    fill(folders, h("h2", {}, t("health.folders")),
      about.inboxes.map((inbox) => [
        h("h3", {}, inbox.name),
        h("p", { class: "dim" }, [named("watch", inbox.watch), named("after", inbox.after), inbox.unmatched && t("unmatched", { n: inbox.unmatched })].filter(Boolean).join(" · ")),
        table(inbox.name, ["folder", "path", "free"], inbox.folders.map((folder) => [named("role", folder.role), folder.path, free(folder)])),
      ]),
      h("h3", {}, t("role.state")),
      table(t("role.state"), ["folder", "path", "free"], [[t("role.state"), about.state.path, free(about.state)]]));
  }

  return { element, status, show: load, hide: hosts.hide };
}
