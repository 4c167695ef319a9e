// Rules: those in force, what was wrong at the last reload, and which one takes a picture.

import { get, post } from "./api.js";
import { calmly, doing, fill, h, tell } from "./dom.js";
import { rule as verdict } from "./outlook.js";
import { said } from "./said.js";
import { named, t } from "./text.js";

export function rulesView(studio) {
  const inboxes = h("div", { class: "stack" });
  const reload = h("button", { type: "button", onclick: doing(again) }, t("reload"));
  const element = h("section", { "aria-label": t("nav.rules") },
    h("div", { class: "head" }, h("h1", {}, t("nav.rules")), reload), tester(), inboxes);

  async function again() {
    const answer = await post("/api/rules/reload");
    draw(answer);
    const bad = Object.values(answer).some((each) => !each.ok);
    tell(t(bad ? "reload.bad" : "reload.good"), bad);
  }

  async function load() {
    draw(await get("/api/rules"));
  }

  function draw(rules) {
    studio.facts.rules = rules;
    fill(inboxes, Object.entries(rules).map(([name, inbox]) =>
      h("section", { class: "card", "aria-label": name },
        h("h2", {}, t("rules.of", { name })),
        !inbox.ok && h("p", { class: "mistake" }, t("rules.old")),
        inbox.mistakes.map((text) => h("p", { class: "mistake" }, said(text))),
        inbox.warnings.map((text) => h("p", { class: "warning" }, said(text))),
        inbox.described.length ? h("ol", { class: "rules" }, inbox.described.map(one)) : h("p", { class: "empty" }, t("rules.none")),
        h("p", { class: "dim" }, t("digest", { digest: inbox.digest.slice(0, 12) })))));
  }

  function one(rule) {
    return h("li", {},
      h("div", {}, h("strong", {}, rule.name), rule.description && h("span", { class: "dim" }, rule.description)),
      h("div", {}, h("span", { class: "dim" }, t("rules.match")), Object.keys(rule.match).length ? pairs(rule.match) : h("span", {}, t("rules.any"))),
      h("div", {}, h("span", { class: "dim" }, t("rules.make")), pairs(rule.make)));
  }

  function pairs(keys) {
    return Object.entries(keys).map(([key, value]) =>
      h("span", { class: "pair" }, h("b", {}, named("set", key)), " ", Array.isArray(value) ? value.join(" · ") : String(value)));
  }

  function tester() {
    const names = studio.facts.about.inboxes.map((inbox) => inbox.name);
    const inbox = h("select", { id: "ask-inbox" }, names.map((name) => h("option", { value: name }, name)));
    const name = h("input", { id: "ask-name", type: "text", value: "cat.jpg", autocomplete: "off", required: true, maxlength: 1000 });
    const width = h("input", { id: "ask-width", type: "number", min: 1, max: 100000, value: 1200, required: true });
    const height = h("input", { id: "ask-height", type: "number", min: 1, max: 100000, value: 800, required: true });
    const answer = h("div", { class: "answer", "aria-live": "polite" });
    const field = (control, key) => h("div", { class: "field" }, h("label", { for: control.id }, t(key)), control);
    const ask = calmly(250, async () => {
      if (!form.checkValidity()) return fill(answer); // still being typed
      try {
        const told = await post("/api/explain", { inbox: inbox.value, path: name.value, width: width.valueAsNumber, height: height.valueAsNumber });
        fill(answer, told.rule ? verdict(told) : [h("p", { class: "warning" }, t("no.rule")),
          h("ul", {}, told.rejected_by.map(([rule, why]) => h("li", {}, h("strong", {}, rule), " – ", said(why))))]);
      } catch (error) {
        fill(answer, h("p", { class: "mistake" }, error.message));
      }
    });
    const form = h("form", { class: "card", onsubmit: (event) => event.preventDefault(), oninput: ask },
      h("h2", {}, t("rules.which")),
      h("div", { class: "fields" }, names.length > 1 && field(inbox, "inbox"), field(name, "rules.name"), field(width, "width"), field(height, "height")),
      answer);
    ask();
    return form;
  }

  return { element, show: load };
}
