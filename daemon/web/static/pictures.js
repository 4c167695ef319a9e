// The pictures to be sent: dropped, chosen or pasted, shown small; one of them is looked at.

import { fill, h } from "./dom.js";
import { bytes, t } from "./text.js";

const ACCEPT = "image/*,.heic,.heif,.avif,.tif,.tiff,.jfif";

/** `{element, items, current, add(files), addJob(job), remove(item), kept(), bring(kept)}`. */
export function pictures(largest, changed) {
  const input = h("input", { type: "file", multiple: true, accept: ACCEPT, id: "files" });
  const list = h("ul", { class: "thumbs", "aria-label": t("pictures") });
  const view = h("div", { class: "preview" });
  const zone = h("label", { class: "drop", for: "files" },
    h("strong", {}, t("drop")), h("span", {}, t("drop.more")));
  const element = h("div", { class: "pictures" }, input, zone, view, list);
  const own = { element, items: [], current: null, add, addJob, remove, kept, bring };

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
    add(pasted.map(dated));
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
    if (file.size > largest) item.error = t("too.large", { most: bytes(largest) });
    own.items.push(item);
    own.current = item;
  }

  /** The files, or the job that is made again. */
  function kept() {
    const job = own.items.find((item) => item.job)?.job;
    return { job, files: own.items.filter((item) => item.file).map((item) => item.file) };
  }

  function bring({ job, files }) {
    if (job) addJob(job);
    files.forEach(put);
    draw();
  }

  function addJob(job) {
    const { width, height } = job.source;
    const item = { job, name: job.path, url: `/api/jobs/${job.id}/picture`, width, height };
    own.items = [item];
    own.current = item;
    draw();
  }

  function remove(item) {
    if (item.file) URL.revokeObjectURL(item.url);
    own.items = own.items.filter((other) => other !== item);
    if (own.current === item) own.current = own.items.at(-1) ?? null;
    draw();
  }

  function draw() {
    element.classList.toggle("some", own.items.length > 0);
    fill(list, own.items.length > 1 && own.items.map(thumb));
    const now = own.current;
    fill(view, now && [
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
      if (own.current === item) draw();
    });
    image.addEventListener("error", () => image.replaceWith(h("p", { class: "unseen" }, t("unseen"))));
    return image;
  }

  function thumb(item) {
    const choose = () => {
      own.current = item;
      draw();
    };
    return h("li", {},
      h("button", { type: "button", onclick: choose, "aria-pressed": String(item === own.current), "aria-label": item.name },
        h("img", { src: item.url, alt: "" })));
  }

  draw();
  return own;
}

/** A pasted picture is always called image.png. */
function dated(file) {
  const now = new Date(Date.now() - new Date().getTimezoneOffset() * 60000);
  const when = now.toISOString().slice(0, 19).replaceAll(":", ".").replace("T", " ");
  return new File([file], `pasted ${when}.${file.type.split("/")[1] ?? "png"}`, { type: file.type });
}
