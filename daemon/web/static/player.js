// Video player of a clip, and the address of its poster.

import { h } from "./dom.js";

/** Create a looping video with controls; clips have no sound. */
export function player(job, more = {}) {
  const poster = job.result?.poster ? posterUrl(job) : null;
  const video = h("video", { src: `api/jobs/${job.id}/clip#t=0.001`, controls: true, loop: true, playsinline: true, preload: "metadata", poster, "aria-label": job.path, ...more });
  video.muted = true;
  return video;
}

/** Return the poster's address. `finished` distinguishes jobs of the same number in another queue,
 * because browsers cache posters for a long time. */
export function posterUrl(job) {
  return `api/jobs/${job.id}/poster?${job.finished}`;
}
