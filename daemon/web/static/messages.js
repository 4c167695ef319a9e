// Translation of the daemon's messages into the reader's language; English stays as it is.

import { Template } from "./template.js";
import { language } from "./text.js";

const catalog = language === "zh" ? await import("./sentences.js") : null;
const templates = catalog ? Object.entries(catalog.default).map(compile).sort((a, b) => b.template.weight - a.template.weight) : [];
const MAX_LOOKUPS = 500;

/** What is left for this message: a stranger's name in it may have parts without end. */
let lookups = 0;

/** Templates with more fixed text are matched first; each {} takes what its translation names. */
function compile([key, chinese]) {
  const kinds = Array.from({ length: key.split("{}").length - 1 }, (_, n) => new RegExp(`\\{${n + 1}([#@]?)\\}`).exec(chinese)[1]);
  return { template: new Template(key, kinds), chinese };
}

/** Translate a message of the daemon; an unknown message is returned unchanged. */
export function translate(text) {
  if (!catalog || !text) return text;
  lookups = MAX_LOOKUPS;
  return translatePart(text);
}

function translatePart(text) {
  return lookup(text) ?? text;
}

function lookup(text) {
  if (!text.includes("{}") && Object.hasOwn(catalog.default, text)) return catalog.default[text];
  return translatePrefixed(text) ?? translateSentence(text) ?? translateList(text);
}

function translateSentence(text) {
  if (lookups-- <= 0) return undefined;
  if (Object.hasOwn(catalog.WORDS, text)) return catalog.WORDS[text];
  for (const { template, chinese } of templates) {
    const values = template.match(text);
    if (values) return chinese.replace(/\{(\d)[#@]?\}/g, (_, number) => translatePart(values[number - 1]));
  }
  return undefined;
}

/** Translate a message after an inbox, or after file, line and key: "10-cat.toml:3: warning: frames: ..." */
function translatePrefixed(text) {
  if (lookups-- <= 0) return undefined;
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
  for (let cut = text.indexOf("; "); cut > 0 && lookups > 0; cut = text.indexOf("; ", cut + 1)) {
    const first = text.slice(0, cut);
    const translation = translatePrefixed(first) ?? translateSentence(first);
    if (translation) return `${translation}；${translatePart(text.slice(cut + 2))}`;
  }
  return undefined;
}
