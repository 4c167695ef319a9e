"""MP4 encoding: write, fsync, read back and verify.

The bytes depend only on the frames and the request, so that the same Spec gives the same file on
the same machine.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.video.reformatter import ColorRange, Colorspace

from pipeline.children.protocol import Output
from pipeline.durable import fsync_dir, fsync_file
from pipeline.request.spec import Encoder
from pipeline.worker.errors import UnusableFile, first_line
from pipeline.worker.output.frames import Frames

_THREADS = 4
"""Fixed, because the bytes that x264 writes depend on its number of threads."""

_MIN_CRF = 1
"""CRF 0 is lossless in x264, which the High profile does not support."""

# mbtree reads uninitialised memory, at least for small frames (seen with MALLOC_PERTURB_): the
# same frames sometimes gave another file. Short clips lose little without it.
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
    """Encode (frames, height, width, 3) RGB bytes as H.264 and verify the file.

    `on_step` gets the number of encoded frames. Raises OSError, and UnusableFile if the file
    differs from what was written.
    """
    name, options = _choose_encoder(encoder, quality)
    with _new_file(path) as file:
        _mux(
            file,
            frames,
            fps=fps,
            name=name,
            options=options,
            metadata=metadata,
            on_step=on_step,
        )
        _fsync(file)
        fsync_dir(path.parent)
        _verify(file, frames.shape, fps)
        content = file.read_bytes()
    fell_back = encoder == "nvenc" and name != "h264_nvenc"
    return Output(
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        codec=f"h264 ({name}{'; nvenc is unavailable' if fell_back else ''})",
        width=frames.shape[2],
        height=frames.shape[1],
        frames=len(frames),
        fps=fps,
        duration=len(frames) / fps,
    )


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """Create a file, in the place of an earlier try's; yield a path to it that no link redirects.

    Others may write to an outbox, and FFmpeg follows links.
    """
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    file = Path(f"/proc/self/fd/{descriptor}")
    try:
        yield file
    except OSError as error:
        if error.filename == str(file):  # FFmpeg's errors are OSErrors that cannot be changed
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        os.close(descriptor)


def _choose_encoder(requested: Encoder, quality: int) -> tuple[str, dict[str, str]]:
    """Return the FFmpeg encoder and its options; x264 if NVENC cannot be opened."""
    if requested == "nvenc":
        if _nvenc_available():
            return "h264_nvenc", _NVENC | {"cq": str(quality)}
        print("nvenc unavailable, using x264", file=sys.stderr)
    return "libx264", _X264 | {"crf": str(max(quality, _MIN_CRF))}


def _nvenc_available() -> bool:
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
    """Convert one frame to yuv420p with the BT.709 matrix, as the tags of the stream say."""
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
    )
    frame.pts, frame.time_base = number, Fraction(1, fps)
    return frame


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        fsync_file(file.fileno())


def _verify(path: Path, shape: tuple[int, ...], fps: int) -> None:
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
