// Pictures to submit: dropped, chosen or pasted; thumbnails, and a large view of the current one.

import { h, setChildren } from "./dom.js";
import { bytes, t } from "./text.js";

const ACCEPT = "image/*,.heic,.heif,.avif,.tif,.tiff,.jfif";

/** Returns `{element, items, current, add(files), addJob(job), remove(item), save(), restore(saved)}`. */
export function pictures(maxBytes, changed) {
  const input = h("input", { type: "file", multiple: true, accept: ACCEPT, id: "files" });
  const list = h("ul", { class: "thumbs", "aria-label": t("pictures") });
  const view = h("div", { class: "preview" });
  const zone = h("label", { class: "drop", for: "files" },
    h("strong", {}, t("drop")), h("span", {}, t("drop.more")));
  const element = h("div", { class: "pictures" }, input, zone, view, list);
  const model = { element, items: [], current: null, add, addJob, remove, save, restore };

  input.addEventListener("change", () => {
    add(input.files);
    input.value = "";
  });
  for (const kind of ["dragenter", "dragover"]) addEventListener(kind, over);
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) zone.classList.remove("over");
  });
  addEventListener("drop", (event) => {
    if (!event.dataTransfer?.files.length) return;
    event.preventDefault();
    zone.classList.remove("over");
    add(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => {
    const pasted = [...(event.clipboardData?.files ?? [])];
    if (!pasted.length) return;
    event.preventDefault();
    add(pasted.map(withTimestamp));
  });

  function over(event) {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    zone.classList.add("over");
  }

  function add(files) {
    location.hash = "make";
    for (const file of files) put(file);
    draw();
  }

  function put(file) {
    const item = { file, name: file.name, url: URL.createObjectURL(file) };
    if (file.size > maxBytes) item.error = t("too.large", { most: bytes(maxBytes) });
    model.items.push(item);
    model.current = item;
  }

  /** Return the files, or the job that is submitted again. */
  function save() {
    const job = model.items.find((item) => item.job)?.job;
    return { job, files: model.items.filter((item) => item.file).map((item) => item.file) };
  }

  function restore({ job, files }) {
    if (job) addJob(job);
    files.forEach(put);
    draw();
  }

  function addJob(job) {
    const { width, height } = job.source;
    const item = { job, name: job.path, url: `api/jobs/${job.id}/picture`, width, height };
    model.items = [item];
    model.current = item;
    draw();
  }

  function remove(item) {
    if (item.file) URL.revokeObjectURL(item.url);
    model.items = model.items.filter((other) => other !== item);
    if (model.current === item) model.current = model.items.at(-1) ?? null;
    draw();
  }

  function draw() {
    element.classList.toggle("some", model.items.length > 0);
    setChildren(list, model.items.length > 1 && model.items.map(thumb));
    const now = model.current;
    setChildren(view, now && [
      picture(now),
      h("div", { class: "caption" },
        h("span", { class: "name" }, now.name),
        h("span", { class: "size" }, now.width ? `${now.width} × ${now.height}` : ""),
        h("button", { type: "button", class: "quiet", onclick: () => remove(now), "aria-label": `${t("remove")}: ${now.name}` }, t("remove"))),
      now.error && h("p", { class: "mistake" }, now.error),
    ]);
    changed();
  }

  function picture(item) {
    const image = h("img", { src: item.url, alt: item.name });
    image.addEventListener("load", () => {
      if (item.width || !item.file) return;
      [item.width, item.height] = [image.naturalWidth, image.naturalHeight];
      if (model.current === item) draw();
    });
    image.addEventListener("error", () => image.replaceWith(h("p", { class: "unseen" }, t("unseen"))));
    return image;
  }

  function thumb(item) {
    const choose = () => {
      model.current = item;
      draw();
    };
    return h("li", {},
      h("button", { type: "button", onclick: choose, "aria-pressed": String(item === model.current), "aria-label": item.name },
        h("img", { src: item.url, alt: "" })));
  }

  draw();
  return model;
}

/** Add the time to the name of a pasted picture, which is always image.png. */
function withTimestamp(file) {
  const now = new Date(Date.now() - new Date().getTimezoneOffset() * 60000);
  const when = now.toISOString().slice(0, 19).replaceAll(":", ".").replace("T", " ");
  return new File([file], `pasted ${when}.${file.type.split("/")[1] ?? "png"}`, { type: file.type });
}
