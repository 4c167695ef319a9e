"""A child that says what it is told to say, as one in bad hands would.

`python -m tests.pipeline.parrot`. As a picture child it answers with the content of the picture, or
ends by the "signal N" in it; as a worker with the prompt, which is in base64. Before that it
behaves.
"""

import array
import base64
import json
import os
import socket
import sys


def main() -> None:
    channel = socket.socket(fileno=int(os.environ["I2VD_CHANNEL"]))
    channel.sendall(b'{"type":"hello"}\n')
    buffer = b""
    while True:
        chunk, pictures, _, _ = socket.recv_fds(channel, 1 << 20, 2)
        if not chunk:
            sys.exit(0)
        buffer += chunk
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            channel.sendall(answer(json.loads(line), pictures))
        for each in pictures:
            os.close(each)


def answer(request: dict[str, object], pictures: "array.array[int]") -> bytes:
    match request:
        case {"type": "load", "model": model, "device": device, "dtype": dtype}:
            loaded = {
                "type": "loaded", "model": model, "weights": "w", "dtype": dtype,
                "device": device, "device_name": "parrot", "memory": None, "versions": {},
                "seconds": 0.0,
            }  # fmt: skip
            return json.dumps(loaded).encode() + b"\n"
        case {"type": "query_memory"}:
            return b'{"type":"free_memory","free":null}\n'
        case {"type": "generate", "spec": {"prompt": str(prompt)}}:
            return base64.b64decode(prompt)
        case {"type": "inspect" | "prepare"}:
            content = os.pread(pictures[0], 1 << 24, 0)
            if content.startswith(b"signal "):
                os.kill(os.getpid(), int(content.split()[1]))
            return content
    return b""


if __name__ == "__main__":
    main()
