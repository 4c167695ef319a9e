// Make: the form with pictures and prompt, its dry run, and the list of submissions.

import { get, newKey, post, upload, withRetries } from "./api.js";
import { buttonAction, debounce, h, setText, showToast } from "./dom.js";
import { fields, settingsOf } from "./fields.js";
import { dryRunPanel, plainMessage } from "./dry_run.js";
import { pictures } from "./pictures.js";
import { submissionList } from "./submissions.js";
import { t } from "./text.js";

export function makeView(app) {
  const { presets, about } = app.facts;
  const explain = debounce(250, dryRunForm);
  const picked = pictures(about.max_upload, explain);
  const advanced = fields(presets, explain);
  const dryRun = dryRunPanel();
  const submissions = submissionList(app);
  let generation = 0; // incremented with each dry run: older responses are dropped

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
    h("h1", { class: "unseen-title" }, t("nav.make")), form, h("div", { class: "side" }, dryRun.element, submissions.element));

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

  function explainRequest() {
    const now = picked.current;
    const known = now?.width ? { width: now.width, height: now.height } : {};
    return { inbox: now?.job?.inbox ?? inbox.value, path: now?.name || "picture.jpg", ...known, make: settings() };
  }

  async function dryRunForm() {
    const mine = ++generation;
    const n = picked.items.length;
    setText(go, n > 1 ? t("make.n", { n }) : t("make"));
    let answer;
    try {
      answer = await post("api/explain", explainRequest());
    } catch (error) {
      if (mine === generation) setText(note, error.message);
      return;
    }
    if (mine !== generation) return;
    setText(note, "");
    dryRun.draw(answer, Math.max(1, n) * answer.specs.length);
    advanced.mark(answer.mistakes);
    if (!answer.specs.length) return;
    prompt.placeholder = answer.specs[0].prompt || t("prompt.example");
    advanced.hint(answer.specs[0]);
  }

  const send = buttonAction(async () => {
    if (!picked.items.length) {
      setText(note, t("pick.first"));
      document.getElementById("files").focus();
      return;
    }
    setText(note, "");
    const make = settings();
    for (const item of [...picked.items]) if (!item.error) await sendOne(item, make);
  });

  /** Submit one picture. Repeating it unchanged uses the same idempotency key, so it has no effect. */
  async function sendOne(item, make) {
    const content = JSON.stringify([make, inbox.value]);
    if (item.content !== content) [item.content, item.key] = [content, newKey()];
    item.after ??= (await get("api/jobs", { limit: 1 }))[0]?.id ?? 0;
    const row = submissions.begin(item);
    try {
      const dropped = await withRetries(() => submit(item, make, row.progress));
      row.dropped(dropped, item.after);
      picked.remove(item);
      for (const warning of dropped.warnings) showToast(plainMessage(warning));
    } catch (error) {
      row.failed(plainMessage(error.message));
      setText(note, plainMessage(error.message));
    }
  }

  function submit(item, make, progress) {
    if (item.job) return post(`api/jobs/${item.job.id}/again`, { make }, item.key);
    const data = new FormData();
    data.append("picture", item.file, item.name);
    data.append("inbox", inbox.value);
    data.append("make", JSON.stringify(make));
    return upload(data, item.key, progress);
  }

  dryRunForm();
  return {
    element,
    always: true,
    status: submissions.status,
    /** Return the state of the form for `restore`. */
    save: () => ({ pictures: picked.save(), settings: advanced.raw(), prompt: prompt.value,
      preset: form.elements.preset.value, inbox: inbox.value, open: advanced.element.open }),
    restore(saved) {
      advanced.fill(saved.settings);
      advanced.element.open = saved.open;
      [prompt.value, inbox.value] = [saved.prompt, saved.inbox];
      for (const radio of form.elements.preset) radio.checked = radio.value === saved.preset;
      picked.restore(saved.pictures);
    },
    /** Fill the form with the settings of a job. */
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
