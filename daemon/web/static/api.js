// Client of the HTTP API. Failures are thrown as an ApiError; its message is shown to the user.

import { translate } from "./messages.js";
import { t } from "./text.js";

export class ApiError extends Error {
  constructor(status, detail) {
    super(translate(detail));
    this.status = status; // 0: no response
  }
}

/** Send a GET request and return the JSON response. Paths are relative: a proxy may add a prefix. */
export function get(path, params = {}) {
  const present = Object.entries(params).filter(([, value]) => value !== "" && value !== undefined);
  const query = new URLSearchParams(present);
  return send(present.length ? `${path}?${query}` : path, {});
}

/** Send a POST request and return the JSON response; `key` is its idempotency key. */
export function post(path, body, key) {
  const headers = { "content-type": "application/json" };
  if (key) headers["idempotency-key"] = key;
  return send(path, { method: "POST", headers, body: body === undefined ? null : JSON.stringify(body) });
}

async function send(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: "no-cache", ...options });
  } catch {
    throw new ApiError(0, t("lost"));
  }
  const content = await response.json().catch(() => ({}));
  if (!response.ok) throw new ApiError(response.status, content.detail ?? response.statusText);
  return content;
}

const BUSY = 503;
const MAX_ATTEMPTS = 4;
const RETRY_DELAY_MS = 500;

/** Repeat a request until the daemon responds and is not busy. The request must carry an idempotency key. */
export async function withRetries(request) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await request();
    } catch (error) {
      if (![0, BUSY].includes(error.status) || attempt === MAX_ATTEMPTS) throw error;
      await new Promise((done) => setTimeout(done, RETRY_DELAY_MS * 2 ** attempt));
    }
  }
}

/** Upload a form and report the fraction that is sent, which fetch cannot do. */
export function upload(form, key, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", "api/jobs");
    request.setRequestHeader("idempotency-key", key);
    request.responseType = "json";
    request.upload.onprogress = (event) => progress(event.total ? event.loaded / event.total : 0);
    request.onerror = () => reject(new ApiError(0, t("lost")));
    request.onload = () => {
      if (request.status < 300) resolve(request.response);
      else reject(new ApiError(request.status, request.response?.detail ?? request.statusText));
    };
    request.send(form);
  });
}

/** Return a random key (crypto.randomUUID needs TLS). */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

const POLL_INTERVAL_MS = 2000;

/**
 * Call the listener with each changed status; with null while the daemon does not respond. The status
 * comes from the worker that all tabs share, and by polling while nothing comes from there: a proxy may
 * buffer the stream, too many may be open, or the browser may have no shared workers.
 */
export function watchStatus(listener) {
  let live = false;
  if ("SharedWorker" in globalThis) {
    const worker = new SharedWorker(new URL("./status_worker.js", import.meta.url));
    worker.port.onmessage = ({ data }) => {
      live = data !== null;
      if (live) listener(data);
    };
  }
  const poll = async () => {
    if (live) return;
    try {
      listener(await get("api/status"));
    } catch (error) {
      listener(error.status ? { problems: [error.message] } : null);
    }
  };
  setInterval(poll, POLL_INTERVAL_MS);
}
