"""Connections: bounds, deadlines and what is logged, over real sockets and a small application."""

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import structlog

from daemon.config.address import peer_of
from daemon.config.settings import Http
from daemon.fs import descriptors
from daemon.web import connections
from daemon.web.connections import RESERVED_DESCRIPTORS, Connections
from daemon.web.server import Server

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answers at once; POST after the whole body; /slow with more than a socket holds.

    /later after half a second.
    """
    if scope["path"] == "/later":
        await asyncio.sleep(0.5)
    if scope["method"] == "POST":
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            pass
        if message["type"] == "http.disconnect":
            return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(400 if scope["path"] == "/slow" else 0):
        await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
    await send({"type": "http.response.body", "body": b"well"})


@contextlib.asynccontextmanager
async def serving(**settings: int) -> AsyncIterator[tuple[Connections, int]]:
    bounds = Connections(Http(**settings))
    server = Server(application, bounds)
    sock = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(server.serve(sockets=[sock]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield bounds, sock.getsockname()[1]
    finally:
        server.should_exit = True
        await task


class Client:
    """One connection that sends bytes as they are."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> "Client":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()
        await asyncio.sleep(0)

    async def ask(self, sent: bytes) -> bytes:
        """Send, and return what comes before the answer's end."""
        self.writer.write(sent)
        async with asyncio.timeout(5):
            return await self.reader.readuntil(b"well")

    async def is_closed(self, within: float = 5) -> bool:
        """Return True if the daemon closes the connection in time."""
        try:
            async with asyncio.timeout(within):
                while await self.reader.read(1 << 16):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEAD_SECONDS", "IDLE_SECONDS", "STALL_SECONDS", "UNREAD_SECONDS"):
        monkeypatch.setattr(connections, name, 0.3)


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as found:
        yield found


async def connect(stack: contextlib.AsyncExitStack, port: int, count: int) -> list[Client]:
    return [await stack.enter_async_context(Client(port)) for _ in range(count)]


async def test_silent_connections_give_way_to_one_that_asks(lines: list[Any]) -> None:
    async with serving(max_connections=40) as (bounds, port), contextlib.AsyncExitStack() as stack:
        silent = await connect(stack, port, 200)
        async with Client(port) as client:
            assert b"200 OK" in await client.ask(HEAD + b"\r\n")
            assert len(bounds) == bounds.most_of_peer == 20
            assert await silent[0].is_closed()
            assert not await silent[-1].is_closed(0.1)
        await asyncio.sleep(0.6)
    said = [line for line in lines if line["event"] == "connections limited"]
    assert len(said) == 1
    assert said[0]["last_peer"] == "127.0.0.1"


async def test_a_connection_with_a_request_stays_and_one_too_many_is_told() -> None:
    async with serving(max_connections=8) as (bounds, port), contextlib.AsyncExitStack() as stack:
        busy = await connect(stack, port, bounds.most_of_peer)
        for client in busy:
            client.writer.write(b"GET /later HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.1)
        async with Client(port) as late:
            async with asyncio.timeout(5):
                told = await late.reader.read()
        assert b"503" in told
        assert b"too many connections" in told
        for client in busy:
            assert b"200 OK" in await client.ask(b"")


async def test_unfinished_bodies_leave_room_for_short_requests() -> None:
    begun = POST + b"Content-Length: 4\r\n\r\nwe"
    async with serving(max_connections=16) as (bounds, port), contextlib.AsyncExitStack() as stack:
        busy = await connect(stack, port, bounds.most_of_peer - 2)
        for client in busy:
            client.writer.write(begun)
        await asyncio.sleep(0.1)
        for _ in range(5):
            async with Client(port) as late:
                late.writer.write(begun)
                async with asyncio.timeout(5):
                    told = await late.reader.read()
            assert told.startswith(b"HTTP/1.1 503")
            assert b"application/problem+json" in told
            assert b"too many uploads at once" in told
        for _ in range(5):
            async with Client(port) as short_request:
                assert b"200 OK" in await short_request.ask(HEAD + b"\r\n")
        for client in busy:
            assert b"200 OK" in await client.ask(b"ll")
        async with Client(port) as later:
            assert b"200 OK" in await later.ask(begun + b"ll")


def test_a_flood_leaves_descriptors_for_the_work() -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.daemon.web.few_descriptors"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdin is not None
    assert server.stdout is not None
    with server, contextlib.ExitStack() as stack:
        port = int(server.stdout.readline())
        server.send_signal(signal.SIGSTOP)  # the kernel takes them, all for one turn of the loop
        for number in range(800):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.bind((f"127.0.0.{1 + number % 50}", 0))
            sock.connect_ex(("127.0.0.1", port))
        server.send_signal(signal.SIGCONT)
        time.sleep(1.5)
        server.stdin.close()
        most = [int(line) for line in server.stdout if line.strip().isdigit()][-1]
    assert 256 - RESERVED_DESCRIPTORS < most <= 256 - RESERVED_DESCRIPTORS // 2


@pytest.mark.parametrize("sent", [b"", b"G", HEAD, HEAD + b"X-Long: "])
async def test_a_head_has_a_deadline_however_it_trickles(short: None, sent: bytes) -> None:
    async with serving() as (_, port), Client(port) as client:

        async def trickle() -> None:
            for byte in sent:
                client.writer.write(bytes([byte]))
                await asyncio.sleep(0.05)
            while sent:
                client.writer.write(b"x")
                await asyncio.sleep(0.05)

        task = asyncio.create_task(trickle())
        assert await client.is_closed()
        task.cancel()


async def test_an_idle_connection_is_closed_after_its_answer(short: None) -> None:
    async with serving() as (_, port), Client(port) as client:
        await client.ask(HEAD + b"\r\n")
        await client.ask(HEAD + b"\r\n")
        assert await client.is_closed()


async def test_a_body_that_stalls_is_cut_off(short: None) -> None:
    async with serving() as (_, port), Client(port) as client:
        client.writer.write(POST + b"Content-Length: 9\r\n\r\nhalf")
        assert await client.is_closed()


async def test_a_body_that_trickles_is_cut_off(short: None) -> None:
    async with serving() as (_, port), Client(port) as client:
        client.writer.write(POST + b"Content-Length: 9000\r\n\r\n")

        async def trickle() -> None:
            while True:
                client.writer.write(b"x")
                await asyncio.sleep(0.05)

        task = asyncio.create_task(trickle())
        assert await client.is_closed()
        task.cancel()


async def test_a_slow_body_that_keeps_its_pace_is_taken(short: None) -> None:
    async with serving() as (_, port), Client(port) as client:
        client.writer.write(POST + b"Content-Length: 10000\r\n\r\n")
        for _ in range(10):
            await asyncio.sleep(0.12)
            client.writer.write(bytes(1000))
        assert b"200 OK" in await client.ask(b"")


async def test_an_answer_that_nobody_reads_is_cut_off(short: None) -> None:
    async with serving() as (bounds, port), Client(port) as client:
        client.writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(1.5)
        assert len(bounds) == 0
        assert await client.is_closed()


GARBAGE = [
    b"garbage\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n",
]


@pytest.mark.parametrize("sent", GARBAGE, ids=lambda sent: ascii(sent[:60]))
async def test_what_is_not_http_is_told_so_and_not_logged(lines: list[Any], sent: bytes) -> None:
    async with serving() as (bounds, port):
        for _ in range(20):
            async with Client(port) as client:
                client.writer.write(sent)
                async with asyncio.timeout(5):
                    answer = await client.reader.read()
                assert answer.startswith(b"HTTP/1.1 400"), answer
                assert b"application/problem+json" in answer
        await asyncio.sleep(0.6)
        assert len(bounds) == 0
    assert [line["event"] for line in lines] == ["connections limited"]
    assert lines[0]["not_http"] > 0


async def test_a_head_without_an_end_is_cut_off() -> None:
    async with serving() as (_, port), Client(port) as client:
        client.writer.write(HEAD + b"A: " + b"x" * 700_000)
        assert await client.is_closed()


def test_the_bounds_leave_descriptors_for_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "limit", lambda: 256)
    bounds = Connections(Http())
    assert bounds.most == 256 - RESERVED_DESCRIPTORS
    assert bounds.most_of_peer == bounds.most // 2
    monkeypatch.setattr(descriptors, "limit", lambda: 65536)
    assert (Connections(Http()).most, Connections(Http()).most_of_peer) == (512, 128)
    few = Connections(Http(max_connections=10, max_connections_per_peer=100))
    assert (few.most, few.most_of_peer) == (10, 5)


@pytest.mark.parametrize(
    ("host", "peer"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:2", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::1"),
    ],
)
def test_a_peer_is_an_address_or_a_network_of_ipv6(host: str, peer: str) -> None:
    assert peer_of(host) == peer
