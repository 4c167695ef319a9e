// A clip's video, and the picture that stands for it.

import { h } from "./dom.js";

/** With controls, going round; silent, as clips are. */
export function player(job, more = {}) {
  const poster = job.result?.poster ? posterAt(job) : null;
  const video = h("video", { src: `/api/jobs/${job.id}/clip#t=0.001`, controls: true, loop: true, playsinline: true, preload: "metadata", poster, "aria-label": job.path, ...more });
  video.muted = true;
  return video;
}

/** The address tells one queue's job from another's of the same number: it is kept for long. */
export function posterAt(job) {
  return `/api/jobs/${job.id}/poster?${job.finished}`;
}
