// The hosts of the queue: who is there, what each has in hand; one is drained, or works again.

import { get, post } from "./api.js";
import { doing, fill, h, table } from "./dom.js";
import { bytes, duration, named, t } from "./text.js";

const INTERVAL = 3000;

/** A card that is hidden while this host is the only one and works. */
export function hostsCard() {
  const element = h("div", { class: "card hosts", hidden: true });
  let timer;
  let seen = "";

  async function look() {
    clearTimeout(timer);
    timer = setTimeout(look, INTERVAL);
    const known = await get("/api/hosts").catch(() => null); // the banner says that nobody answers
    if (!known) return;
    element.hidden = known.length < 2 && known.every((host) => host.state === "working");
    const lines = known.map((host) => [
      host.name, named("host", host.state), host.devices.map(deviceOf).join(", ") || "–",
      host.jobs.map((job) => `#${job.id} ${job.path}`).join(", ") || "–",
      host.speed === null ? "–" : t("host.speed", { n: host.speed.toPrecision(3) }),
      host.version, host.seconds_since_heartbeat < 60 ? t("host.now") : t("host.ago", { time: duration(host.seconds_since_heartbeat) }),
    ]);
    const mark = JSON.stringify(lines);
    if (mark === seen) return;
    seen = mark;
    const focused = element.contains(document.activeElement) ? document.activeElement.dataset.host : null;
    fill(element, h("h2", {}, t("health.hosts")),
      table(t("health.hosts"), ["host", "state", "device", "doing", "speed", "version", "heard", "act"].map((key) => t(`col.${key}`)),
        known.map((host, index) => [...lines[index], button(host)])));
    if (focused) element.querySelector(`[data-host="${CSS.escape(focused)}"]`)?.focus();
  }

  function button(host) {
    const drained = ["draining", "drained"].includes(host.state);
    const act = async () => {
      await post(`/api/hosts/${encodeURIComponent(host.name)}/${drained ? "undrain" : "drain"}`);
      await look();
    };
    const text = t(drained ? "host.undrain" : "host.drain");
    return h("button", { type: "button", "data-host": host.name, onclick: doing(act), "aria-label": `${text}: ${host.name}` }, text);
  }

  return { element, show: look, hide: () => clearTimeout(timer) };
}

function deviceOf(device) {
  const name = device.name ?? device.device;
  return device.memory === null ? name : `${name} (${bytes(device.memory)})`;
}
