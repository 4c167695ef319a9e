// Make: pictures and a prompt in, the outlook beside them, and what was sent below it.

import { get, newKey, post, surely, upload } from "./api.js";
import { calmly, doing, h, say, tell } from "./dom.js";
import { fields, settingsOf } from "./fields.js";
import { outlookPanel, plain } from "./outlook.js";
import { pictures } from "./pictures.js";
import { sentList } from "./sent.js";
import { t } from "./text.js";

export function makeView(studio) {
  const { presets, about } = studio.facts;
  const explain = calmly(250, ask);
  const picked = pictures(about.max_upload, explain);
  const advanced = fields(presets, explain);
  const outlook = outlookPanel();
  const sent = sentList(studio);
  let asked = 0;

  const prompt = h("textarea", { id: "prompt", rows: 3, maxlength: 2000, oninput: explain, "aria-describedby": "advice" });
  const inbox = h("select", { id: "inbox", onchange: explain }, about.inboxes.map((each) => h("option", { value: each.name }, each.name)));
  const go = h("button", { class: "primary", type: "submit" }, t("make"));
  const note = h("p", { class: "note", "aria-live": "polite" });

  const form = h("form", { class: "make", novalidate: true },
    h("div", { class: "card" },
      picked.element,
      h("div", { class: "field" },
        h("label", { for: "prompt" }, t("prompt")), prompt,
        h("p", { id: "advice", class: "advice" }, t("advice"))),
      presetButtons(),
      about.inboxes.length > 1 && h("div", { class: "field" }, h("label", { for: "inbox" }, t("inbox")), inbox),
      advanced.element,
      h("div", { class: "go" }, go, note)));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send({ currentTarget: go });
  });
  const element = h("section", { class: "two", "aria-label": t("nav.make") },
    h("h1", { class: "unseen-title" }, t("nav.make")), form, h("div", { class: "side" }, outlook.element, sent.element));

  function presetButtons() {
    const option = (value, title, about) =>
      h("label", {}, h("input", { type: "radio", name: "preset", value, checked: !value, onchange: explain }),
        h("span", {}, h("strong", {}, title), h("small", {}, about)));
    return h("fieldset", { class: "presets" }, h("legend", {}, t("preset")),
      option("", t("preset.rule"), t("preset.rule.more")),
      Object.entries(presets.presets).map(([name, preset]) =>
        option(name, name, t("preset.is", { size: preset.side, frames: preset.frames, steps: preset.steps }))));
  }

  function settings() {
    const make = advanced.values();
    if (prompt.value.trim()) make.prompt = prompt.value.trim();
    const preset = form.elements.preset.value;
    if (preset) make.preset = preset;
    return make;
  }

  function question() {
    const now = picked.current;
    const known = now?.width ? { width: now.width, height: now.height } : {};
    return { inbox: now?.job?.inbox ?? inbox.value, path: now?.name || "picture.jpg", ...known, make: settings() };
  }

  async function ask() {
    const turn = ++asked;
    const n = picked.items.length;
    say(go, n > 1 ? t("make.n", { n }) : t("make"));
    let answer;
    try {
      answer = await post("/api/explain", question());
    } catch (error) {
      if (turn === asked) say(note, error.message);
      return;
    }
    if (turn !== asked) return; // a later question was asked meanwhile
    say(note, "");
    outlook.draw(answer, Math.max(1, n) * answer.specs.length);
    advanced.mark(answer.mistakes);
    if (!answer.specs.length) return;
    prompt.placeholder = answer.specs[0].prompt || t("prompt.example");
    advanced.hint(answer.specs[0]);
  }

  const send = doing(async () => {
    if (!picked.items.length) {
      say(note, t("pick.first"));
      document.getElementById("files").focus();
      return;
    }
    say(note, "");
    const make = settings();
    for (const item of [...picked.items]) if (!item.error) await sendOne(item, make);
  });

  /** Under one key as long as nothing is changed: asked again, it is not dropped again. */
  async function sendOne(item, make) {
    const whole = JSON.stringify([make, inbox.value]);
    if (item.whole !== whole) [item.whole, item.key] = [whole, newKey()];
    item.after ??= (await get("/api/jobs", { limit: 1 }))[0]?.id ?? 0;
    const row = sent.begin(item);
    try {
      const dropped = await surely(() => drop(item, make, row.progress));
      row.dropped(dropped, item.after);
      picked.remove(item);
      for (const warning of dropped.warnings) tell(plain(warning));
    } catch (error) {
      row.failed(plain(error.message));
      say(note, plain(error.message));
    }
  }

  function drop(item, make, progress) {
    if (item.job) return post(`/api/jobs/${item.job.id}/again`, { make }, item.key);
    const data = new FormData();
    data.append("picture", item.file, item.name);
    data.append("inbox", inbox.value);
    data.append("make", JSON.stringify(make));
    return upload(data, item.key, progress);
  }

  ask();
  return {
    element,
    always: true,
    status: sent.status,
    /** The form as it is, to be brought back. */
    kept: () => ({ pictures: picked.kept(), settings: advanced.said(), prompt: prompt.value,
      preset: form.elements.preset.value, inbox: inbox.value, open: advanced.element.open }),
    bring(kept) {
      advanced.fill(kept.settings);
      advanced.element.open = kept.open;
      [prompt.value, inbox.value] = [kept.prompt, kept.inbox];
      for (const radio of form.elements.preset) radio.checked = radio.value === kept.preset;
      picked.bring(kept.pictures);
    },
    /** Fill the form with what a job was asked, to be changed. */
    again(job) {
      const make = settingsOf(job.spec, presets.multiple);
      advanced.fill({ ...make, priority: job.priority || "" });
      advanced.element.open = true;
      prompt.value = make.prompt ?? "";
      for (const radio of form.elements.preset) radio.checked = radio.value === make.preset;
      picked.addJob(job);
      prompt.focus();
    },
  };
}
