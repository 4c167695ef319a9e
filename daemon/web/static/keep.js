// What is kept over a reload of this very window: a form, and the pictures chosen in it.

import { newKey } from "./api.js";

const STORE = "kept";

async function stored(act) {
  const opening = indexedDB.open("i2vd", 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore(STORE);
  const database = await answered(opening);
  try {
    return await answered(act(database.transaction(STORE, "readwrite").objectStore(STORE)));
  } finally {
    database.close();
  }
}

function answered(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Files may be in it. */
export async function keep(value) {
  sessionStorage.kept = newKey();
  await stored((store) => store.put(value, sessionStorage.kept));
}

/** What was kept last, once. */
export async function kept() {
  const key = sessionStorage.kept;
  if (!key) return undefined;
  delete sessionStorage.kept;
  const value = await stored((store) => store.get(key));
  await stored((store) => store.delete(key));
  return value;
}
