// Elements. Text is only ever put in as text: a name or a prompt is never read as markup.

/** An element with attributes, `on...` listeners and children; null and false are left out. */
export function h(name, props = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...some(children));
  return element;
}

/** Replace what is in an element. */
export function fill(element, ...children) {
  element.replaceChildren(...some(children));
}

function some(children) {
  return children.flat(2).filter((child) => child !== null && child !== undefined && child !== false);
}

/** Set the text where it differs, so that nothing is announced twice. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const updates = new WeakMap();

/**
 * Have one row for each item, in order. Rows that stay are kept and only told of their item, so that
 * focus and playing videos survive; when the row with the focus goes, its neighbour gets it.
 * `create(item)` gives `{element, update(item)}`.
 */
export function rows(list, items, keyOf, create) {
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
  const kept = new Set(next);
  for (const row of old.values()) if (!kept.has(row)) row.remove();
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

/** A picture's path: its name, and its folder in smaller letters. */
export function placed(path) {
  const cut = path.lastIndexOf("/") + 1;
  return h("span", { class: "name" }, cut > 0 && h("span", { class: "folder" }, path.slice(0, cut)), path.slice(cut));
}

/** A table with these heads; `lines` are cells: texts or elements. */
export function table(label, heads, lines) {
  return h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": label },
    h("table", {},
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, lines.map((cells) => h("tr", {}, cells.map((cell) => h("td", {}, cell instanceof Node ? cell : String(cell))))))));
}

/** Call after `wait` ms without another call. */
export function calmly(wait, call) {
  let timer;
  return (...told) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...told), wait);
  };
}

const toast = document.getElementById("toast");
let fading;

/** Tell something in passing. */
export function tell(text, bad = false) {
  toast.className = bad ? "shown bad" : "shown";
  toast.textContent = text;
  clearTimeout(fading);
  fading = setTimeout(() => (toast.className = ""), bad ? 9000 : 5000);
}

/** A listener that does something once at a time; its button is off meanwhile, errors are told. */
export function doing(act) {
  return async (event) => {
    const button = event.currentTarget;
    if (button.ariaDisabled === "true") return;
    button.ariaDisabled = "true"; // not `disabled`, which would lose the focus
    try {
      await act(event);
    } catch (error) {
      tell(error.message, true);
    } finally {
      button.ariaDisabled = null;
    }
  };
}
