// Form fields of a clip's settings. Their ranges come from the API's JSON schema.

import { h, setChildren, setText } from "./dom.js";
import { labelOf, t } from "./text.js";

const ASPECTS = ["square", "source", "16:9", "9:16", "4:3", "3:4"];
const LARGEST_SEED = Number.MAX_SAFE_INTEGER;

/** Settings by group, in the order of the form. */
const GROUPS = {
  shape: ["size", "aspect", "framing"],
  motion: ["frames", "fps", "motion_fps"],
  sampling: ["steps", "guidance", "guidance_rescale", "sampler", "spacing", "speed", "seed"],
  rest: ["quality", "fallback", "priority", "variants"],
};

/** Return the settings of a spec as a `[make]` table that requests them again. */
export function settingsOf(spec, multiple) {
  const keys = ["prompt", "negative_prompt", "preset", "framing", "frames", "fps", "motion_fps", "steps",
    "guidance", "guidance_rescale", "sampler", "spacing", "speed", "quality", "encoder", "fallback", "seed"];
  const make = {};
  for (const key of keys) if (spec[key] !== null && spec[key] !== "") make[key] = spec[key];
  if (!Number.isSafeInteger(make.seed)) delete make.seed;
  const side = Math.sqrt(spec.width * spec.height);
  make.size = Math.max(multiple, Math.round(side / multiple) * multiple);
  const part = divisor(spec.width, spec.height);
  const ratio = [spec.width / part, spec.height / part];
  if (Math.max(...ratio) < 100) make.aspect = spec.width === spec.height ? "square" : ratio.join(":");
  return make;
}

function rangeOf(values) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  return least === most ? String(least) : `${least}–${most}`;
}

function divisor(a, b) {
  return b ? divisor(b, a % b) : a;
}

/** Returns `{element, values(), raw(), fill(make), hint(spec), mark(mistakes)}`; calls `changed` on every change. */
export function fields(presets, changed) {
  const controls = {};
  const schema = presets.settings.properties;
  const among = (key) => rangeOf(Object.values(presets.presets).map((preset) => preset[key]));
  const usual = { frames: among("frames"), steps: among("steps"), guidance: presets.model === "micro" ? "" : "7–12", fps: "8", motion_fps: "16" };
  const kinds = {
    size: () => number("size", { step: presets.multiple }, presets.sides),
    aspect: () => text("aspect", ASPECTS),
    seed: () => text("seed", ["random", "content"]),
    guidance: () => number("guidance", { step: 0.5 }),
    guidance_rescale: () => number("guidance_rescale", { step: 0.05 }),
    priority: () => number("priority", { min: -100, max: 100, step: 1, placeholder: 0 }),
    variants: () => number("variants", { min: 1, max: 16, step: 1, placeholder: 1 }),
  };

  function field(key, control, range) {
    controls[key] = control;
    control.id = `set-${key}`;
    control.addEventListener("input", changed);
    return h("div", { class: "field" },
      h("label", { for: control.id }, t(`set.${key}`), range && h("span", { class: "range" }, range)),
      control);
  }

  function number(key, more, list = []) {
    const limits = (schema[key]?.anyOf ?? []).find((kind) => "minimum" in kind) ?? {};
    const { min = limits.minimum, max = limits.maximum, step = 1, placeholder } = more;
    const id = list.length ? `list-${key}` : null;
    const control = h("input", { type: "number", inputmode: "decimal", min, max, step, list: id, placeholder });
    const range = [`${min}–${max}`, usual[key] && t("usual", { value: usual[key] })].filter(Boolean).join(" · ");
    return [field(key, control, range), id && options(id, list)];
  }

  function text(key, list) {
    const id = `list-${key}`;
    const control = h("input", { type: "text", list: id, autocomplete: "off", spellcheck: "false" });
    return [field(key, control), options(id, list)];
  }

  function choice(key) {
    const known = schema[key].anyOf.find((kind) => kind.enum).enum;
    const control = h("select", {}, h("option", { value: "" }),
      known.map((value) => h("option", { value }, labelOf(`is.${key}`, value))));
    return field(key, control);
  }

  function settingField(key) {
    if (kinds[key]) return kinds[key]();
    return schema[key].anyOf.some((kind) => kind.enum) ? choice(key) : number(key, {});
  }

  const negative = h("textarea", { rows: 2, maxlength: 2000 });
  const element = h("details", { class: "advanced" },
    h("summary", {}, t("advanced")),
    Object.entries(GROUPS).map(([group, keys]) =>
      h("fieldset", {}, h("legend", {}, t(`group.${group}`)), h("div", { class: "fields" }, keys.map(settingField)))),
    field("negative_prompt", negative));

  function value(key, control) {
    const text = control.value.trim();
    if (control.validity.badInput || (control.type !== "number" && key !== "seed")) return text;
    if (key === "seed") return /^\d+$/.test(text) && Number(text) <= LARGEST_SEED ? Number(text) : text;
    return Number(text);
  }

  return {
    element,
    /** Return the filled-in settings. */
    values() {
      const filled = Object.entries(controls).filter(([, control]) => control.value.trim() || control.validity.badInput);
      return Object.fromEntries(filled.map(([key, control]) => [key, value(key, control)]));
    },
    /** Return the text of each field, valid or not. */
    raw() {
      return Object.fromEntries(Object.entries(controls).map(([key, control]) => [key, control.value]));
    },
    fill(make) {
      for (const [key, control] of Object.entries(controls)) control.value = make[key] ?? "";
    },
    /** Show the effective values in empty fields. */
    hint(spec) {
      for (const [key, control] of Object.entries(controls)) {
        const effective = key === "size" ? `${spec.width}×${spec.height}` : spec[key];
        if (control.tagName === "SELECT") {
          if (!control.value) setText(control.options[0], t("as", { value: labelOf(`is.${key}`, effective ?? "–") }));
        } else if (effective !== undefined && !control.value && key !== "seed") {
          control.placeholder = effective ?? "";
        }
      }
      controls.seed.placeholder ||= t("is.seed.random");
      controls.aspect.placeholder ||= "square";
    },
    /** Mark the fields that the mistakes name. */
    mark(mistakes) {
      for (const [key, control] of Object.entries(controls)) {
        const wrong = !control.checkValidity() || mistakes.some((mistake) => new RegExp(`\\b${key}\\b`).test(mistake.split(/["']/)[0]));
        control.ariaInvalid = wrong ? "true" : null;
      }
    },
  };
}

function options(id, list) {
  const element = h("datalist", { id });
  setChildren(element, list.map((value) => h("option", { value })));
  return element;
}
