// Localisation: texts, numbers and times in the reader's language.

import en from "./en.js";
import zh from "./zh.js";

const TEXTS = { en, zh };
const stored = localStorage.getItem("language");
const preferred = navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";

export const language = stored in TEXTS ? stored : preferred;
export const locale = language === "zh" ? "zh-CN" : "en-GB";
document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";

/** Return the text of a key, with its {placeholders} replaced. */
export function t(key, values = {}) {
  const text = TEXTS[language][key] ?? en[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

/** Return the text of a key that may be unknown, such as a stage's name. */
export function labelOf(kind, name) {
  const key = `${kind}.${name}`;
  return key in en ? t(key) : name;
}

/** Reload the page in another language. */
export function setLanguage(other) {
  localStorage.setItem("language", other);
  location.reload();
}

/** Format seconds as s, min or h. */
export function duration(seconds) {
  if (seconds < 100) return t("seconds", { n: Math.max(1, Math.round(seconds)) });
  if (seconds < 6000) return t("minutes", { n: Math.round(seconds / 60) });
  return t("hours", { n: (seconds / 3600).toFixed(1) });
}

/** Format bytes as GB or MB (10^9, 10^6). */
export function bytes(count) {
  if (count < 1e8) return `${(count / 1e6).toFixed(count < 1e7 ? 1 : 0)} MB`;
  return `${(count / 1e9).toFixed(count < 1e10 ? 2 : 0)} GB`;
}

const day = new Intl.DateTimeFormat(locale, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });

/** Format a time in seconds since 1970. */
export function time(seconds) {
  return day.format(seconds * 1000);
}
