"""Receivers of webhooks that misbehave: they cost their own messages only."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.conftest import Open
from tests.system.receiver import Receiver
from tests.system.studio import Studio, picture

pytestmark = pytest.mark.slow

HEAD = b"HTTP/1.1 200 OK\r\n"


def endless_body(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"\r\n")
    while True:
        connection.sendall(b"x" * (1 << 20))


def endless_chunks(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"100000\r\n" + b"x" * (1 << 20) + b"\r\n")


def compressed_bomb(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 99999999999\r\n\r\n")
    while True:
        connection.sendall(b"\x1f\x8b" + b"\0" * (1 << 20))


def drips(connection: socket.socket) -> None:
    for byte in HEAD * 1000:
        connection.sendall(bytes([byte]))
        time.sleep(0.5)


def endless_head(connection: socket.socket) -> None:
    connection.sendall(HEAD)
    while True:
        connection.sendall(b"x: y\r\n" * 1000)


def silence(connection: socket.socket) -> None:
    time.sleep(60)


def rubbish(connection: socket.socket) -> None:
    connection.sendall(b"\x00\xff" * 1000)


def echo(connection: socket.socket) -> None:
    """Answer as an echo server does: with the request, whose path is a secret."""
    connection.sendall(b"POST /secret-path HTTP/1.1\r\n")


def endless_continue(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.01)


ACCEPTED = (endless_body, endless_chunks, compressed_bomb)


@pytest.fixture
def hostile() -> Iterator[Callable[[Callable[[socket.socket], None]], int]]:
    """Start a server that answers each connection by a function; return its port."""
    servers = []

    def start(answer: Callable[[socket.socket], None]) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def talk(connection: socket.socket) -> None:
            try:
                connection.recv(1 << 16)
                answer(connection)
            except OSError:
                pass
            finally:
                connection.close()

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=talk, args=[connection], daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        return int(server.getsockname()[1])

    yield start
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def memory(studio: Studio) -> int:
    text = Path(f"/proc/{studio.pid}/status").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def refused(studio: Studio) -> set[str]:
    """Return the receivers that did not accept a message."""
    lines = [line for line in studio.log() if line["event"] == "webhook delivery failed"]
    return {line["url"] for line in lines}


def test_no_answer_of_a_receiver_fills_the_memory_or_holds_up_the_others(
    quick_in: Open, hostile: Callable[[Callable[[socket.socket], None]], int]
) -> None:
    answers = [*ACCEPTED, drips, endless_head, silence, rubbish, echo, endless_continue]
    receiver = Receiver()
    receiver.open()
    studio = quick_in()
    with studio.config.open("a") as file:
        for port in (*map(hostile, answers), receiver.port):
            file.write(f'\n[[webhook]]\nurl = "http://127.0.0.1:{port}/secret-path"\n')
    try:
        studio.start()
        studio.drop("cat.png", picture(1))
        studio.until_settled("cat.png", "done")
        studio.until(lambda: receiver.received == [("done", "cat.png")], "a sound one is told")
        failing = len(answers) - len(ACCEPTED)
        studio.until(lambda: len(refused(studio)) == failing, "the others are tried again", 40)
    finally:
        receiver.close()
    assert studio.metric("i2vd_webhook_messages_total", outcome="delivered") == 1 + len(ACCEPTED)
    assert memory(studio) < 400e6
    assert studio.metric("i2vd_background_failures_total") == 0
    assert "secret-path" not in studio.log_file.read_text()
    assert studio.stop() == 0


def test_a_picture_that_is_rejected_at_intake_is_told(quick_in: Open) -> None:
    receiver = Receiver()
    receiver.open()
    studio = quick_in()
    with studio.config.open("a") as file:
        file.write(f'\n[[webhook]]\nurl = "http://127.0.0.1:{receiver.port}/"\n')
    try:
        studio.start()
        studio.drop("wrong.png", b"no picture at all")
        (studio.inbox / "odd.png.toml").write_text("frames = 'many'\n")
        studio.drop("odd.png", picture(2))
        studio.until(
            lambda: sorted(receiver.received) == [("failed", "odd.png"), ("failed", "wrong.png")],
            "both are told",
        )
    finally:
        receiver.close()
    assert studio.stop() == 0
