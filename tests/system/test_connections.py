"""Connections that say nothing, little, slowly or rubbish: the daemon works and answers."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.system.conftest import Open
from tests.system.studio import Studio, picture

pytestmark = pytest.mark.slow

MOST_LOG_BYTES = 20_000
FORM = "multipart/form-data; boundary=x"
BODY = (
    b'--x\r\nContent-Disposition: form-data; name="picture"; filename="NAME"\r\n\r\n'
    + picture(5)
    + b"\r\n--x--\r\n"
)


@contextlib.contextmanager
def silent(studio: Studio, count: int) -> Iterator[list[socket.socket]]:
    """Connections that are opened and send nothing."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", studio.port), 10))
            for _ in range(count)
        ]


def raw(studio: Studio, sent: bytes) -> bytes:
    """Send bytes and return what comes back before the connection ends."""
    with socket.create_connection(("127.0.0.1", studio.port), 10) as sock:
        sock.sendall(sent)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def head(studio: Studio, name: str, length: int | None = None) -> tuple[bytes, bytes]:
    """Return the head and the body of an upload."""
    body = BODY.replace(b"NAME", name.encode())
    return (
        f"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\n"
        f"Connection: close\r\nContent-Length: {length or len(body)}\r\n\r\n"
    ).encode(), body


@pytest.mark.parametrize(
    ("limit", "count"), [("ulimit -n 256", 300), ("ulimit -Sn 1024", 1100), ("ulimit -n 512", 700)]
)
def test_silent_connections_stop_neither_work_nor_answers(
    quick_in: Open, limit: str, count: int
) -> None:
    studio = quick_in(prefix=["bash", "-c", f'{limit}; exec "$@"', "bash"]).start()
    with silent(studio, count):
        began = time.monotonic()
        assert httpx2.get(f"http://127.0.0.1:{studio.port}/healthz", trust_env=False).is_success
        assert time.monotonic() - began < 5
        studio.drop("cat.png", picture(1))
        studio.until_settled("cat.png", "done")
        assert raw(studio, b"".join(head(studio, "sent.png"))).startswith(b"HTTP/1.1 202")
        studio.until_settled("sent.png", "done")
        time.sleep(2)
    assert studio.log_file.stat().st_size < MOST_LOG_BYTES, studio.log_tail(200)[:3000]
    events = [line["event"] for line in studio.log()]
    assert events.count("connections limited") == 1
    assert studio.stop() == 0


def test_the_soft_limit_of_open_files_is_raised(quick_in: Open) -> None:
    studio = quick_in(prefix=["bash", "-c", 'ulimit -Sn 300; exec "$@"', "bash"]).start()
    limits = Path(f"/proc/{studio.pid}/limits").read_text(encoding="ascii").splitlines()
    (line,) = [each.split() for each in limits if each.startswith("Max open files")]
    assert int(line[3]) == min(int(line[4]), 65536)


BOTH = b"Host: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
NOT_HTTP = [
    *(line + BOTH + body
      for line in (b"POST /api/pause HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\n",
                   b"POST /api/jobs HTTP/1.1\r\n")
      for body in (b"hello\r\n", b"0\r\n\r\nGET /x", b"5\r\nhello\r\n0\r\n\r\n")),
    b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /api/explain HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"POST /api/explain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1, 2\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\0" * 100 + b"\r\n\r\n",
]  # fmt: skip


def test_what_is_not_http_is_answered_with_400_and_no_traceback(quick_in: Open) -> None:
    studio = quick_in().start()
    for sent in NOT_HTTP:
        for _ in range(5):
            answer = raw(studio, sent)
            assert answer.startswith(b"HTTP/1.1 400"), (sent, answer)
            assert answer.count(b"HTTP/1.1") == 1, (sent, answer)
            assert b"application/problem+json" in answer
    for sent in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET http://evil/ HTTP/1.1\r\n\r\n"):
        assert b"HTTP/1.1 4" in raw(studio, sent)
    assert studio.is_ready()
    assert studio.log_file.stat().st_size < MOST_LOG_BYTES
    assert "Traceback" not in studio.log_file.read_text()


@pytest.mark.parametrize("token", [False, True])
def test_a_body_that_goes_wrong_after_its_answer_leaves_no_traceback(
    quick_in: Open, token: bool
) -> None:
    studio = quick_in(**({"I2VD_HTTP__TOKEN_FILE": "token"} if token else {}))
    (studio.root / "token").write_text("a-token-of-sufficient-length")
    studio.start(ready=False)
    studio.until(studio.is_alive, "it answers")
    lengths = (b"", b"Content-Length: 5\r\n")
    for path in (b"/api/pause", b"/api/resume", b"/none", b"/api/jobs"):
        for length in lengths:
            with socket.create_connection(("127.0.0.1", studio.port), 10) as sock:
                chunked = b"Transfer-Encoding: chunked\r\n\r\n"
                sock.sendall(
                    b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\n" + length + chunked
                )
                time.sleep(0.2)
                with contextlib.suppress(ConnectionError):
                    sock.sendall(b"zz\r\n")
                    answer = b"".join(iter(lambda sock=sock: sock.recv(65536), b""))
                    assert answer.count(b"HTTP/1.1") == 1, (path, answer)
    assert studio.is_alive()
    assert "Traceback" not in studio.log_file.read_text()


def test_an_upload_without_room_is_refused_before_it_is_sent(quick_in: Open) -> None:
    studio = quick_in(I2VD_HTTP__MAX_UPLOAD="900TB").start()
    asked, _ = head(studio, "huge.png", 800 * 10**12)
    answer = raw(studio, asked)
    assert answer.startswith(b"HTTP/1.1 507")
    assert b"no room for the upload, 800000000.0 MB, in " in answer
    assert raw(studio, b"".join(head(studio, "cat.png"))).startswith(b"HTTP/1.1 202")


def test_few_uploads_are_received_at_once_and_the_others_wait(quick_in: Open) -> None:
    studio = quick_in(I2VD_HTTP__MAX_UPLOADS="2").start()
    with contextlib.ExitStack() as stack:
        sent = []
        for number in range(4):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", studio.port), 30))
            asked, body = head(studio, f"cat{number}.png")
            sock.sendall(asked + body[:50])
            sent.append((sock, body[50:]))
        time.sleep(0.5)
        assert studio.get("/api/status")["paused"] is False
        late, rest = sent.pop()
        late.sendall(rest)
        late.settimeout(1)
        with pytest.raises(TimeoutError):
            late.recv(1)
        for sock, rest in sent:
            sock.sendall(rest)
            assert sock.recv(65536).startswith(b"HTTP/1.1 202")
        late.settimeout(10)
        assert late.recv(65536).startswith(b"HTTP/1.1 202")
    studio.until(lambda: len(studio.clips()) == 4, "all four are made")


def test_it_listens_on_both_protocols(quick_in: Open) -> None:
    studio = quick_in(I2VD_HTTP__TOKEN_FILE="token")
    (studio.root / "token").write_text("a-token-of-sufficient-length")
    studio.environment["I2VD_HTTP__LISTEN"] = f"[::]:{studio.port}"
    studio.start(ready=False)
    studio.until(studio.is_alive, "it answers over IPv4")
    with httpx2.Client(trust_env=False) as http:
        for host in ("[::1]", "127.0.0.1", "localhost"):
            assert http.get(f"http://{host}:{studio.port}/healthz").text == "ok\n", host
    assert studio.command("pause").returncode == 0


def test_localhost_is_every_loopback_address(quick_in: Open) -> None:
    studio = quick_in()
    studio.environment["I2VD_HTTP__LISTEN"] = f"localhost:{studio.port}"
    studio.start()
    with httpx2.Client(trust_env=False) as http:
        for host in ("[::1]", "127.0.0.1", "localhost"):
            assert http.get(f"http://{host}:{studio.port}/api/status").is_success, host
    assert studio.command("pause").returncode == 0
