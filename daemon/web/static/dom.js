// DOM helpers. Text is only inserted as text nodes, so a name or a prompt is never parsed as markup.

/** Create an element with attributes, `on...` listeners and children; null and false are skipped. */
export function h(name, props = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...present(children));
  return element;
}

/** Replace the children of an element. */
export function setChildren(element, ...children) {
  element.replaceChildren(...present(children));
}

function present(children) {
  return children.flat(2).filter((child) => child !== null && child !== undefined && child !== false);
}

/** Set the text if it differs, so that screen readers announce it once. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const updates = new WeakMap();

/**
 * Synchronise the rows of a list with items, in order. Existing rows are updated in place, which
 * preserves focus and playing videos. If the focused row is removed, its neighbour gets the focus.
 * `create(item)` returns `{element, update(item)}`.
 */
export function syncRows(list, items, keyOf, create) {
  const old = new Map([...list.children].map((row) => [row.dataset.key, row]));
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  const at = focused ? [...list.children].findIndex((row) => row.contains(focused)) : -1;
  const next = items.map((item) => {
    const key = String(keyOf(item));
    let row = old.get(key);
    if (!row) {
      const made = create(item);
      row = made.element;
      row.dataset.key = key;
      updates.set(row, made.update);
    }
    updates.get(row)?.(item);
    return row;
  });
  const remaining = new Set(next);
  for (const row of old.values()) if (!remaining.has(row)) row.remove();
  next.forEach((row, index) => {
    if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null);
  });
  if (!focused || document.activeElement === focused) return;
  if (focused.isConnected) focused.focus();
  else (list.children[Math.min(at, next.length - 1)]?.querySelector("button") ?? main()).focus();
}

function main() {
  return document.getElementById("main");
}

/** Create a label of a picture's path: folder (smaller) and name. */
export function pathLabel(path) {
  const cut = path.lastIndexOf("/") + 1;
  return h("span", { class: "name" }, cut > 0 && h("span", { class: "folder" }, path.slice(0, cut)), path.slice(cut));
}

/** Create a table; `lines` are arrays of cells, each text or an element. */
export function table(label, heads, lines) {
  return h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": label },
    h("table", {},
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, lines.map((cells) => h("tr", {}, cells.map((cell) => h("td", {}, cell instanceof Node ? cell : String(cell))))))));
}

/** Return a function that calls `call` after `wait` ms without another call. */
export function debounce(wait, call) {
  let timer;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...args), wait);
  };
}

const toast = document.getElementById("toast");
let hideTimer;

/** Show a message for some seconds. */
export function showToast(text, bad = false) {
  toast.className = bad ? "shown bad" : "shown";
  toast.textContent = text;
  clearTimeout(hideTimer);
  hideTimer = setTimeout(() => (toast.className = ""), bad ? 9000 : 5000);
}

/** Return a click listener that runs `act`, disables the button meanwhile and shows errors. */
export function buttonAction(act) {
  return async (event) => {
    const button = event.currentTarget;
    if (button.ariaDisabled === "true") return;
    button.ariaDisabled = "true"; // `disabled` would lose the focus
    try {
      await act(event);
    } catch (error) {
      showToast(error.message, true);
    } finally {
      button.ariaDisabled = null;
    }
  };
}
