"""The MP4: written, put on disk for good, read back and checked before it counts.

The bytes depend on the frames and the request alone, so that the same Spec gives the same file on
the same machine.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.video.reformatter import ColorRange, Colorspace

from pipeline.children.protocol import Output
from pipeline.request.spec import Encoder
from pipeline.worker.errors import UnusableFile, first_line
from pipeline.worker.output.frames import Frames

_THREADS = 4
"""x264's bytes depend on the number of its threads, so it is not left to the machine."""

_BEST = 1
"""x264 takes 0 for lossless, which the High profile does not have."""

# mbtree reads memory that nobody wrote, at least in small frames (seen with MALLOC_PERTURB_), so
# that the same frames now and then gave another file; short clips lose little without it
_X264 = {"preset": "medium", "profile": "high", "x264-params": "mbtree=0"}
_NVENC = {"preset": "p6", "tune": "hq", "profile": "high", "rc": "vbr"}


def write_video(
    path: Path,
    frames: Frames,
    *,
    fps: int,
    quality: int,
    encoder: Encoder,
    metadata: Mapping[str, str],
    on_step: Callable[[int], None],
) -> Output:
    """Write (frames, height, width, 3) RGB bytes as H.264 and check the file.

    `on_step` gets the frames done. Raises OSError, and BadFile if the file is not what was written.
    """
    name, options = _encoder(encoder, quality)
    _mux(
        path,
        frames,
        fps=fps,
        name=name,
        options=options,
        metadata=metadata,
        on_step=on_step,
    )
    _sync(path)
    _check(path, frames.shape, fps)
    missing = encoder == "nvenc" and name != "h264_nvenc"
    return Output(
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        size=path.stat().st_size,
        codec=f"h264 ({name}{'; nvenc is not to be had' if missing else ''})",
        width=frames.shape[2],
        height=frames.shape[1],
        frames=len(frames),
        fps=fps,
        duration=len(frames) / fps,
    )


def _encoder(wanted: Encoder, quality: int) -> tuple[str, dict[str, str]]:
    """FFmpeg's encoder and its options; x264 where NVENC is asked for but cannot be opened."""
    if wanted == "nvenc":
        if _nvenc_opens():
            return "h264_nvenc", _NVENC | {"cq": str(quality)}
        print("nvenc cannot be opened here; x264 encodes", file=sys.stderr)
    return "libx264", _X264 | {"crf": str(max(quality, _BEST))}


def _nvenc_opens() -> bool:
    try:
        probe = av.CodecContext.create("h264_nvenc", "w")
        if not isinstance(probe, av.VideoCodecContext):
            return False
        probe.width = probe.height = 256
        probe.pix_fmt, probe.time_base = "yuv420p", Fraction(1, 8)
        probe.open()
    except (av.FFmpegError, OSError, ValueError):
        return False
    return True


def _mux(
    path: Path,
    frames: Frames,
    *,
    fps: int,
    name: str,
    options: dict[str, str],
    metadata: Mapping[str, str],
    on_step: Callable[[int], None],
) -> None:
    container_options = {"movflags": "+faststart"}
    with av.open(str(path), "w", format="mp4", container_options=container_options) as container:
        container.metadata.update(metadata)
        stream: Any = container.add_stream(name, rate=fps, options=options)
        context = stream.codec_context
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.time_base = context.time_base = Fraction(1, fps)
        context.thread_count = _THREADS
        context.color_primaries = context.color_trc = context.colorspace = Colorspace.ITU709
        context.color_range = ColorRange.MPEG
        for number, pixels in enumerate(frames):
            container.mux(stream.encode(_frame(pixels, number, fps)))
            on_step(number + 1)
        container.mux(stream.encode())


def _frame(pixels: Frames, number: int, fps: int) -> av.VideoFrame:
    """One frame in yuv420p by the matrix of BT.709, which the stream's tags promise."""
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
    )
    frame.pts, frame.time_base = number, Fraction(1, fps)
    return frame


def _sync(path: Path) -> None:
    for place in (path, path.parent):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _check(path: Path, shape: tuple[int, ...], fps: int) -> None:
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            sizes = [(frame.height, frame.width) for frame in container.decode(stream)]
            rate, duration = stream.average_rate, stream.duration
            base = stream.time_base
    except (av.FFmpegError, IndexError) as error:
        raise UnusableFile(f"the MP4 cannot be read back: {first_line(error)}") from error
    if sizes != [shape[1:3]] * shape[0]:
        raise UnusableFile(f"the MP4 has {len(sizes)} frames of {set(sizes)}, wanted {shape}")
    length = None if duration is None or base is None else duration * base
    if rate != fps or length != Fraction(shape[0], fps):
        raise UnusableFile(
            f"the MP4 has {rate} fps and lasts {length} s, wanted {shape[0]} at {fps} fps"
        )
