// Translation of the daemon's messages into the reader's language; English stays as it is.

import { language } from "./text.js";

const catalog = language === "zh" ? await import("./sentences.js") : null;
const GROUPS = { "#": "([\\d.]+)", "@": "(the (?:picture )?\\w+)", "": "(.+?)" };
const patterns = catalog ? Object.entries(catalog.default).map(pattern).sort((a, b) => b.weight - a.weight) : [];

/** A regular expression for a key. Each {} is a group, of the kind that its translation names. Keys
 * with more fixed text are matched first. */
function pattern([key, text]) {
  let source = "";
  key.split("{}").forEach((part, number) => {
    const kind = number ? new RegExp(`\\{${number}([#@]?)\\}`).exec(text)[1] : null;
    source += (kind === null ? "" : GROUPS[kind]) + part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  });
  return { regex: new RegExp(`^${source}$`, "s"), text, weight: key.replaceAll("{}", "").length };
}

/** Translate a message of the daemon; an unknown message is returned unchanged. */
export function translate(text) {
  if (!catalog || !text) return text;
  return lookup(text) ?? text;
}

function lookup(text) {
  if (!text.includes("{}") && Object.hasOwn(catalog.default, text)) return catalog.default[text];
  return translatePrefixed(text) ?? translateSentence(text) ?? translateList(text);
}

function translateSentence(text) {
  if (Object.hasOwn(catalog.WORDS, text)) return catalog.WORDS[text];
  for (const { regex, text: chinese } of patterns) {
    const match = regex.exec(text);
    if (match) return chinese.replace(/\{(\d)[#@]?\}/g, (_, number) => translate(match[number]));
  }
  return undefined;
}

/** Translate a message after an inbox, or after file, line and key: "10-cat.toml:3: warning: frames: ..." */
function translatePrefixed(text) {
  const inbox = /^inbox ([^:;]+): (.+)$/s.exec(text);
  if (inbox) {
    const translation = lookup(inbox[2]);
    return translation && `${catalog.WORDS.inbox} ${inbox[1]}：${translation}`;
  }
  const [, location, warning, key, rest] = /^((?:[^:;\n]+:\d+|[^\s:;]+): )?(warning: )?(\w+(?:\.\w+)?: )?(.+)$/s.exec(text) ?? [];
  if (!location && !warning && !key) return undefined;
  const translation = translateSentence(rest) ?? translateList(rest);
  return translation && [location, warning && catalog.default[warning], key, translation].filter(Boolean).join("");
}

/** Translate several messages joined by "; ". */
function translateList(text) {
  for (let cut = text.indexOf("; "); cut > 0; cut = text.indexOf("; ", cut + 1)) {
    const first = text.slice(0, cut);
    const translation = translatePrefixed(first) ?? translateSentence(first);
    if (translation) return `${translation}；${translate(text.slice(cut + 2))}`;
  }
  return undefined;
}
