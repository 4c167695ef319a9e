// Rules: the active rules, mistakes of the last reload, and a tester for a hypothetical picture.

import { get, post } from "./api.js";
import { buttonAction, debounce, h, setChildren, showToast } from "./dom.js";
import { ruleVerdict } from "./dry_run.js";
import { translate } from "./messages.js";
import { labelOf, t } from "./text.js";

export function rulesView(app) {
  const inboxes = h("div", { class: "stack" });
  const reload = h("button", { type: "button", onclick: buttonAction(reloadRules) }, t("reload"));
  const element = h("section", { "aria-label": t("nav.rules") },
    h("div", { class: "head" }, h("h1", {}, t("nav.rules")), reload), tester(), inboxes);

  async function reloadRules() {
    const answer = await post("api/rules/reload");
    draw(answer);
    const bad = Object.values(answer).some((each) => !each.ok);
    showToast(t(bad ? "reload.bad" : "reload.good"), bad);
  }

  async function load() {
    draw(await get("api/rules"));
  }

  function draw(rules) {
    app.facts.rules = rules;
    setChildren(inboxes, Object.entries(rules).map(([name, inbox]) =>
      h("section", { class: "card", "aria-label": name },
        h("h2", {}, t("rules.of", { name })),
        !inbox.ok && h("p", { class: "mistake" }, t("rules.old")),
        inbox.mistakes.map((text) => h("p", { class: "mistake" }, translate(text))),
        inbox.warnings.map((text) => h("p", { class: "warning" }, translate(text))),
        inbox.described.length ? h("ol", { class: "rules" }, inbox.described.map(ruleItem)) : h("p", { class: "empty" }, t("rules.none")),
        h("p", { class: "dim" }, t("digest", { digest: inbox.digest.slice(0, 12) })))));
  }

  function ruleItem(rule) {
    return h("li", {},
      h("div", {}, h("strong", {}, rule.name), rule.description && h("span", { class: "dim" }, rule.description)),
      h("div", {}, h("span", { class: "dim" }, t("rules.match")), Object.keys(rule.match).length ? pairs(rule.match) : h("span", {}, t("rules.any"))),
      h("div", {}, h("span", { class: "dim" }, t("rules.make")), pairs(rule.make)));
  }

  function pairs(keys) {
    return Object.entries(keys).map(([key, value]) =>
      h("span", { class: "pair" }, h("b", {}, labelOf("set", key)), " ", Array.isArray(value) ? value.join(" · ") : String(value)));
  }

  function tester() {
    const names = app.facts.about.inboxes.map((inbox) => inbox.name);
    const inbox = h("select", { id: "ask-inbox" }, names.map((name) => h("option", { value: name }, name)));
    const name = h("input", { id: "ask-name", type: "text", value: "cat.jpg", autocomplete: "off", required: true, maxlength: 1000 });
    const width = h("input", { id: "ask-width", type: "number", min: 1, max: 100000, value: 1200, required: true });
    const height = h("input", { id: "ask-height", type: "number", min: 1, max: 100000, value: 800, required: true });
    const answer = h("div", { class: "answer", "aria-live": "polite" });
    const field = (control, key) => h("div", { class: "field" }, h("label", { for: control.id }, t(key)), control);
    const ask = debounce(250, async () => {
      if (!form.checkValidity()) return setChildren(answer); // still being typed
      try {
        const result = await post("api/explain", { inbox: inbox.value, path: name.value, width: width.valueAsNumber, height: height.valueAsNumber });
        setChildren(answer, result.rule ? ruleVerdict(result) : [h("p", { class: "warning" }, t("no.rule")),
          h("ul", {}, result.rejected_by.map(([rule, reason]) => h("li", {}, h("strong", {}, rule), " – ", translate(reason))))]);
      } catch (error) {
        setChildren(answer, h("p", { class: "mistake" }, error.message));
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
