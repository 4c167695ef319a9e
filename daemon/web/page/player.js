// A clip's video.

import { h } from "./dom.js";

/** With controls, going round; silent, as clips are. */
export function player(job, more = {}) {
  const video = h("video", { src: `/api/jobs/${job.id}/clip#t=0.001`, controls: true, loop: true, playsinline: true, preload: "metadata", "aria-label": job.path, ...more });
  video.muted = true;
  return video;
}
