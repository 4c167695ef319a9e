"""The messages that the page shows each have a Chinese translation, and none is unused."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

from daemon.web.static import FILES

ROOT = Path(__file__).parents[3]
CATALOG = (FILES / "sentences.js").read_text(encoding="utf-8")

NOT_ON_THE_PAGE = {
    "daemon/__main__.py",
    "daemon/cli/bench_memory.py",
    "daemon/jobs/backup.py",
    "daemon/cli/check.py",
    "daemon/config/loader.py",
    "daemon/cli/demo.py",
    "daemon/cli/explain.py",
    "daemon/config/fields.py",
    "daemon/config/pipe.py",
    "daemon/telemetry/gpu_metrics.py",
    "daemon/intake/inotify.py",
    "daemon/fs/lock.py",
    "daemon/telemetry/metrics.py",
    "daemon/jobs/migrations.py",
    "daemon/fs/mounts.py",
    "daemon/estimate/requirements.py",
    "daemon/cli/render.py",
    "daemon/config/settings.py",
    "daemon/cli/bench_timeline.py",
    "daemon/config/secret_file.py",
    "daemon/cli/sandbox.py",
    "daemon/web/events.py",
    "daemon/web/health.py",
    "daemon/web/static.py",
    "daemon/web/server.py",
    "daemon/webhooks.py",
    "pipeline/memory/dimensions.py",
    "pipeline/children/channel.py",
    "pipeline/children/protocol.py",
    "pipeline/image/sandbox.py",
    "pipeline/checkpoint/download.py",
    "pipeline/sidecar.py",
    "pipeline/worker/__main__.py",
    "pipeline/worker/bench/speed.py",
    "pipeline/worker/optimizations/fused_ops.py",
    "pipeline/worker/optimizations/cuda_graph.py",
    "pipeline/worker/faults.py",
}
"""Files whose messages go to the terminal, the log, the metrics or another program."""

IGNORED_TEXTS = {
    "worker {}", "{} on {}", "{} min",
    "{} queued", "{} skipped", ", all done in {}", "i2vd {}", "i2vd, {}",
    "settle {}", "storage {} {}", "submission {}",
    "STATUS=stopping, the running attempt may finish", "STATUS=waiting: {}", "i2vd retry {}",
    "numbered_names() does not end", "ended by us",
    "no work",
    "prompt: {}",  # messages.js knows keys of settings before a message
    "system volume information", "network trash folder", "temporary items",
    "{} may lead out of {}", "queue.url {}: {}", "log writer", "... {} more lines",
    "Log lines that could not be written, or that nobody took in time.",
    "not a database", "file is encrypted", "unable to open", "timed out", "No such file",
    "starting up", "shutting down", "too many", "closed the connection", "maximum image size",
    "unsupported bmp ",
    "private, max-age=3600", "private, max-age=31536000, immutable", "`status` as it changes.",
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    'Basic realm="i2vd", charset="UTF-8"', "The request failed; `detail` gives the reason.",
    "the picture child was asked to {}", "tuple[float, float]", "model name", "string conversion",
    "(at end of document)", "{} while another request is being served", "out of memory",
    "can't allocate memory", "CUDA driver error", "; nvenc is unavailable", "Value error, ",
    "open picture", "close picture", "close clip", "folder look", "folders of {}",
    "spoke without being asked",
    # The advice about a lost child process is only logged.
    "a new worker gets a fresh context; if it comes again, look for Xid in `dmesg` and at the card "
    "in `nvidia-smi`",
    "the machine or the service (MemoryMax=) has too little memory beside what else runs there",
    "somebody sent the signal; a new one takes over",
    "its last words stand in the log before this line",
    "a picture may have tried to take it over, or i2vd's sandbox is wrong here: keep the picture "
    "and report it with what `journalctl -k --grep=type=1326` says",
    "look at `nvidia-smi` and `dmesg`; on a slow machine raise `model.heartbeat_timeouts`",
    "this is a fault in i2vd or in a library: please report it with the log",
    "`i2vd check` looks at the model and the device; the job waits",
    "a new worker tries the same once more; if it comes often, see that nobody set "
    "PYTORCH_ALLOC_CONF without expandable_segments:True",
    "a new worker starts with all of the memory; if it comes with every clip, please report it "
    "with the log",
    # So is the advice on an unusable kernel cache.
    "make it writable, or set ${} to another folder",
}  # fmt: skip
"""Texts that match MESSAGE but are not shown on the page."""

IGNORED_CALLS = {
    "log", "sa", "structlog", "re", "gauge", "Query", "Path", "Form", "Header", "Field", "print",
    "exec_driver_sql", "create_task", "literal_column",
}  # fmt: skip
"""Functions whose arguments are not shown on the page."""

MESSAGE = re.compile(r"[a-z]{2,}[,;:)]* (\(?[a-z{\d\"'`])|[}'] [a-z]{2,}|[a-z]: ")


def find_messages(path: Path) -> Iterator[str]:
    """Yield the messages in a file, with {} for each placeholder."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    ignored: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            ignored.add(node.value)  # a docstring
        elif isinstance(node, ast.JoinedStr):
            ignored |= {part for part in node.values if isinstance(part, ast.Constant)}
        elif isinstance(node, ast.Call):
            names = {getattr(n, "id", getattr(n, "attr", "")) for n in ast.walk(node.func)}
            if names & IGNORED_CALLS:
                arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
                ignored |= {each for argument in arguments for each in ast.walk(argument)}
    for node in ast.walk(tree):
        if node in ignored:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
            text = "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if MESSAGE.search(text):
            yield text


def read_catalog() -> dict[str, str]:
    """Return the messages and their Chinese translations."""
    lines = re.findall(r'^  ("(?:[^"\\]|\\.)*"): ("(?:[^"\\]|\\.)*"),$', CATALOG, re.MULTILINE)
    return {json.loads(english): json.loads(chinese) for english, chinese in lines}


def page_files() -> list[Path]:
    """Return the Python files whose messages the page can show."""
    found = [p for part in ("daemon", "pipeline", "rules") for p in (ROOT / part).rglob("*.py")]
    names = {path: str(path.relative_to(ROOT)) for path in found}
    return [
        path
        for path, name in names.items()
        if name not in NOT_ON_THE_PAGE and not {"cli", "micro"} & set(path.parts)
    ]


def test_every_message_on_the_page_has_a_chinese_translation() -> None:
    messages = {text for path in page_files() for text in find_messages(path)}
    assert messages - IGNORED_TEXTS - set(read_catalog()) == set(), "missing in sentences.js"
    assert IGNORED_TEXTS - messages == set(), "no longer in the code"
    assert len(messages) > 200


def test_every_translated_message_exists_in_the_code() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in page_files())
    messages = {text for path in page_files() for text in find_messages(path)}
    for english in set(read_catalog()) - messages:  # too short to match MESSAGE
        assert all(part in code for part in english.split("{}") if part), english


def test_each_placeholder_is_used_once_in_the_translation() -> None:
    for english, chinese in read_catalog().items():
        numbers = [str(number) for number in range(1, english.count("{}") + 1)]
        assert sorted(re.findall(r"\{(\d)[#@]?\}", chinese)) == numbers, english
