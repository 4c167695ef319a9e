// Hosts of the queue: state, devices and running jobs; buttons to drain and undrain.

import { get, post } from "./api.js";
import { buttonAction, h, setChildren, table } from "./dom.js";
import { bytes, duration, labelOf, t } from "./text.js";

const POLL_INTERVAL_MS = 3000;

/** Create a card; it is hidden while this host is the only one and working. */
export function hostsCard() {
  const element = h("div", { class: "card hosts", hidden: true });
  let timer;
  let seen = "";

  async function poll() {
    clearTimeout(timer);
    timer = setTimeout(poll, POLL_INTERVAL_MS);
    const known = await get("api/hosts").catch(() => null); // the banner reports a daemon that does not respond
    if (!known) return;
    element.hidden = known.length < 2 && known.every((host) => host.state === "working");
    const lines = known.map((host) => [
      host.name, labelOf("host", host.state), host.devices.map(deviceOf).join(", ") || "–",
      host.jobs.map((job) => `#${job.id} ${job.path}`).join(", ") || "–",
      host.speed === null ? "–" : t("host.speed", { n: host.speed.toPrecision(3) }),
      host.version, host.seconds_since_heartbeat < 60 ? t("host.now") : t("host.ago", { time: duration(host.seconds_since_heartbeat) }),
    ]);
    const mark = JSON.stringify(lines);
    if (mark === seen) return;
    seen = mark;
    const focused = element.contains(document.activeElement) ? document.activeElement.dataset.host : null;
    setChildren(element, h("h2", {}, t("health.hosts")),
      table(t("health.hosts"), ["host", "state", "device", "doing", "speed", "version", "heard", "act"].map((key) => t(`col.${key}`)),
        known.map((host, index) => [...lines[index], button(host)])));
    if (focused) element.querySelector(`[data-host="${CSS.escape(focused)}"]`)?.focus();
  }

  function button(host) {
    const drained = ["draining", "drained"].includes(host.state);
    const act = async () => {
      await post(`api/hosts/${encodeURIComponent(host.name)}/${drained ? "undrain" : "drain"}`);
      await poll();
    };
    const text = t(drained ? "host.undrain" : "host.drain");
    return h("button", { type: "button", "data-host": host.name, onclick: buttonAction(act), "aria-label": `${text}: ${host.name}` }, text);
  }

  return { element, show: poll, hide: () => clearTimeout(timer) };
}

function deviceOf(device) {
  const name = device.name ?? device.device;
  return device.memory === null ? name : `${name} (${bytes(device.memory)})`;
}
