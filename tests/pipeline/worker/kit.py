"""Test kit of the worker: a picture, a Spec, the parent's end of a child."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.children import protocol
from pipeline.request.presets import MICRO
from pipeline.request.spec import Spec


def a_picture(width: int = 64, height: int = 64) -> Image.Image:
    down, across = np.mgrid[0:height, 0:width]
    red, green = across * 255 // (width - 1), down * 255 // (height - 1)
    blue = 255 * ((across // 8 + down // 8) % 2)
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


def a_spec(**changes: Any) -> Spec:
    given = {
        "prompt": "pan left",
        "preset": "draft",
        "width": 32,
        "height": 32,
        "frames": 8,
        "fps": 8,
        "motion_fps": 16,
        "steps": 10,
        "guidance": 1.0,
        "seed": 5,
    }
    return Spec.model_validate(given | changes)


class Peer:
    """The parent's end of a real worker process, for tests."""

    def __init__(self, tmp_path: Path, **environment: str) -> None:
        self.socket, theirs = socket.socketpair()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("I2VD_")}
        self._log = (tmp_path / f"worker-{theirs.fileno()}.log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.worker"],
            pass_fds=[theirs.fileno()],
            stderr=self._log,
            stdout=subprocess.DEVNULL,
            env=inherited
            | {protocol.CHANNEL_FD: str(theirs.fileno()), "I2VD_TORCH_THREADS": "1"}
            | environment,
        )
        theirs.close()
        self._buffer = b""
        self.progress: list[tuple[str, int, int]] = []
        self.leaked_bytes: int | None = None

    def send(self, message: Any) -> None:
        self.socket.sendall(protocol.dump(message))

    def receive(self, seconds: float = 200.0) -> Any:
        """The next message; None when the channel has ended."""
        self.socket.settimeout(seconds)
        while b"\n" not in self._buffer:
            chunk = self.socket.recv(65536)
            if not chunk:
                return None
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        return protocol.read_reply(line)

    def final(self) -> Any:
        """The next message that ends something; progress is kept, and the leaked bytes."""
        while isinstance(reply := self.receive(), protocol.Progress | protocol.FramesReady):
            if isinstance(reply, protocol.FramesReady):
                self.leaked_bytes = reply.leaked_bytes
            else:
                self.progress.append((reply.stage, reply.step, reply.steps))
        return reply

    def load(self, max_memory: int | None = None) -> Any:
        hello = self.receive()
        if hello is None:
            return None
        assert hello.type == "hello"
        self.send(
            protocol.Load(
                model=MICRO,
                device="cpu",
                dtype="float32",
                max_memory=max_memory,
            )
        )
        return self.final()

    def log(self) -> str:
        self._log.flush()
        return Path(self._log.name).read_text()

    def close(self) -> int:
        self.socket.close()
        return self.process.wait(20)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.socket.close()
        self._log.close()
