"""Video thread: writes the MP4 of one clip while the next clip is on the device.

It does not use the device. It holds one clip at a time, and the device thread waits for it before
the next one is handed over, so that decoded frames do not accumulate.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.children.channel import ParentGone


class VideoThread:
    """Runs tasks in one thread, one after the other."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="video")
        self._last: Future[None] | None = None

    def wait(self) -> None:
        """Wait for the last task, and raise its error.

        ParentGone is ignored, because the thread that reads the channel raises it too.
        """
        if self._last is not None:
            last, self._last = self._last, None
            try:
                last.result()
            except ParentGone:
                return

    def begin(self, task: Callable[[], None]) -> None:
        """Wait for the last task, then start this one."""
        self.wait()
        self._last = self._thread.submit(task)
