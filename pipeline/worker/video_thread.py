"""The finisher: writes one clip's MP4 while the next is on the device.

It has a thread of its own and touches no device. There is one clip at a time in it, and the device
waits for it before it hands over the next: what is decoded does not pile up.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.children.channel import ParentGone


class VideoThread:
    """Gives work to its thread, one piece after the other."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="finisher")
        self._last: Future[None] | None = None

    def wait(self) -> None:
        """Until nothing is being finished. What ended the last piece unexpectedly is raised here.

        When the parent is gone, the thread that reads the channel finds out by itself.
        """
        if self._last is not None:
            last, self._last = self._last, None
            try:
                last.result()
            except ParentGone:
                return

    def begin(self, work: Callable[[], None]) -> None:
        """Finish a clip; the one before it is finished."""
        self.wait()
        self._last = self._thread.submit(work)
