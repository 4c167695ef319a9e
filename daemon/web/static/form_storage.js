// The form and its pictures, stored across one reload of the same window.

import { newKey } from "./api.js";

const STORE = "kept";
const DATABASE_VERSION = 1;

async function withStore(operation) {
  const opening = indexedDB.open("i2vd", DATABASE_VERSION);
  opening.onupgradeneeded = () => opening.result.createObjectStore(STORE);
  const database = await promisify(opening);
  try {
    return await promisify(operation(database.transaction(STORE, "readwrite").objectStore(STORE)));
  } finally {
    database.close();
  }
}

function promisify(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Store a form, which may contain files. */
export async function saveForm(form) {
  sessionStorage.form = newKey();
  await withStore((store) => store.put(form, sessionStorage.form));
}

/** Return the stored form and delete it; undefined if there is none. */
export async function takeForm() {
  const key = sessionStorage.form;
  if (!key) return undefined;
  delete sessionStorage.form;
  const form = await withStore((store) => store.get(key));
  await withStore((store) => store.delete(key));
  return form;
}
