// What the daemon says, in the reader's language. In English as it is.

import { language } from "./text.js";

const book = language === "zh" ? await import("./sentences.js") : null;
const HOLES = { "#": "([\\d.]+)", "@": "(the (?:picture )?\\w+)", "": "(.+?)" };
const patterns = book ? Object.entries(book.default).map(pattern).sort((a, b) => b.weight - a.weight) : [];

/** {} of the key are holes, of the kinds that the text says; the more is fixed the earlier it is tried. */
function pattern([key, text]) {
  let form = "";
  key.split("{}").forEach((part, number) => {
    const kind = number ? new RegExp(`\\{${number}([#@]?)\\}`).exec(text)[1] : null;
    form += (kind === null ? "" : HOLES[kind]) + part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  });
  return { form: new RegExp(`^${form}$`, "s"), text, weight: key.replaceAll("{}", "").length };
}

/** A sentence of the daemon's; what is not known is left as it is. */
export function said(text) {
  if (!book || !text) return text;
  return known(text) ?? text;
}

function known(text) {
  return placed(text) ?? whole(text) ?? listed(text);
}

function whole(text) {
  if (Object.hasOwn(book.WORDS, text)) return book.WORDS[text];
  for (const { form, text: chinese } of patterns) {
    const found = form.exec(text);
    if (found) return chinese.replace(/\{(\d)[#@]?\}/g, (_, number) => said(found[number]));
  }
  return undefined;
}

/** After an inbox, or the place in a file and the key: "10-cat.toml:3: warning: frames: ..." */
function placed(text) {
  const inbox = /^inbox ([^:;]+): (.+)$/s.exec(text);
  if (inbox) {
    const told = known(inbox[2]);
    return told && `${book.WORDS.inbox} ${inbox[1]}：${told}`;
  }
  const [, place, warning, key, rest] = /^((?:[^:;\n]+:\d+|[^\s:;]+): )?(warning: )?(\w+(?:\.\w+)?: )?(.+)$/s.exec(text) ?? [];
  if (!place && !warning && !key) return undefined;
  const told = whole(rest) ?? listed(rest);
  return told && [place, warning && book.default[warning], key, told].filter(Boolean).join("");
}

/** Several, with "; " between them. */
function listed(text) {
  for (let cut = text.indexOf("; "); cut > 0; cut = text.indexOf("; ", cut + 1)) {
    const first = text.slice(0, cut);
    const told = placed(first) ?? whole(first);
    if (told) return `${told}；${said(text.slice(cut + 2))}`;
  }
  return undefined;
}
