// The API as functions. What goes wrong is thrown as a Failure, whose message is for a person.

import { said } from "./said.js";
import { t } from "./text.js";

export class Failure extends Error {
  constructor(status, detail) {
    super(said(detail));
    this.status = status; // 0: no answer
  }
}

/** The answer to a question. */
export function get(path, params = {}) {
  const given = Object.entries(params).filter(([, value]) => value !== "" && value !== undefined);
  const query = new URLSearchParams(given);
  return asked(given.length ? `${path}?${query}` : path, {});
}

/** The answer to a command. */
export function post(path, body, key) {
  const headers = { "content-type": "application/json" };
  if (key) headers["idempotency-key"] = key;
  return asked(path, { method: "POST", headers, body: body === undefined ? null : JSON.stringify(body) });
}

async function asked(path, options) {
  let answer;
  try {
    answer = await fetch(path, { cache: "no-cache", ...options });
  } catch {
    throw new Failure(0, t("lost"));
  }
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Failure(answer.status, told.detail ?? answer.statusText);
  return told;
}

const TRIES = 4;

/**
 * Ask until there is an answer, under one key: however often it is asked, it is done once.
 */
export async function surely(ask) {
  for (let tried = 1; ; tried++) {
    try {
      return await ask();
    } catch (error) {
      if (error.status !== 0 || tried === TRIES) throw error;
      await new Promise((done) => setTimeout(done, 500 * 2 ** tried));
    }
  }
}

/** Send a form, and tell the share of it that is sent (fetch cannot). */
export function upload(form, key, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", "/api/jobs");
    request.setRequestHeader("idempotency-key", key);
    request.responseType = "json";
    request.upload.onprogress = (event) => progress(event.total ? event.loaded / event.total : 0);
    request.onerror = () => reject(new Failure(0, t("lost")));
    request.onload = () => {
      if (request.status < 300) resolve(request.response);
      else reject(new Failure(request.status, request.response?.detail ?? request.statusText));
    };
    request.send(form);
  });
}

/** A key that nobody used (randomUUID is not there without TLS). */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

const POLL = 2000;
const POLLS_BEFORE_LIVE = 15;

/**
 * Tell each status as it changes; null while the daemon does not answer. Where nothing comes live (a
 * proxy that holds it back, too many listeners), it is asked for.
 */
export function watch(listener) {
  let live;
  let heard;
  let polls = 0;
  const connect = () => {
    heard = false;
    live = new EventSource("/api/live");
    live.addEventListener("status", (event) => {
      heard = true;
      listener(JSON.parse(event.data));
    });
  };
  setInterval(async () => {
    if (heard && live.readyState === EventSource.OPEN) return;
    try {
      listener(await get("/api/status"));
    } catch (error) {
      listener(error.status ? { problems: [error.message] } : null);
    }
    if (live.readyState === EventSource.CLOSED && ++polls % POLLS_BEFORE_LIVE === 0) connect();
  }, POLL);
  connect();
}
