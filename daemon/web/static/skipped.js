// Skipped files: what was in an inbox for a minute and belongs to no job, with the reason.

import { get } from "./api.js";
import { h, pathLabel, setText, syncRows } from "./dom.js";
import { translate } from "./messages.js";
import { t, time } from "./text.js";

const PAGE_SIZE = 100;

export function skippedFiles() {
  const list = h("ul", { class: "list failures" });
  const more = h("p", { class: "note" });
  const element = h("div", { hidden: true }, h("h2", {}, t("skipped")), h("p", { class: "dim" }, t("skipped.note")), list, more);
  let total = 0;

  async function load() {
    const found = await get("api/skipped", { limit: PAGE_SIZE });
    syncRows(list, found.files, (file) => JSON.stringify(file), row);
    const rest = found.total - found.files.length;
    setText(more, rest > 0 ? t("skipped.more", { n: rest }) : "");
    element.hidden = !found.total;
  }

  function row(file) {
    return {
      element: h("li", { class: "card" },
        h("div", { class: "grow" },
          pathLabel(file.path),
          h("p", {}, translate(file.detail)),
          h("p", { class: "dim" }, [file.inbox, t("skipped.since", { time: time(file.since) })].join(" · ")))),
    };
  }

  function status(now) {
    if (now.skipped === total) return;
    total = now.skipped;
    load();
  }

  return { element, status, load };
}
