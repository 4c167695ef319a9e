"""The daemon's sentences that the page shows: each has its Chinese, and none that is gone."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

from daemon.web.static import FILES

ROOT = Path(__file__).parents[3]
BOOK = (FILES / "sentences.js").read_text(encoding="utf-8")

ELSEWHERE = {
    "daemon/__main__.py",
    "daemon/cli/bench_memory.py",
    "daemon/cli/check.py",
    "daemon/config/loader.py",
    "daemon/cli/demo.py",
    "daemon/cli/explain.py",
    "daemon/config/fields.py",
    "daemon/telemetry/gpu_metrics.py",
    "daemon/intake/notifier.py",
    "daemon/fs/lock.py",
    "daemon/telemetry/metrics.py",
    "daemon/jobs/migrations.py",
    "daemon/fs/mounts.py",
    "daemon/estimate/requirements.py",
    "daemon/cli/render.py",
    "daemon/intake/scanner.py",
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
    "pipeline/checkpoint/download.py",
    "pipeline/sidecar.py",
    "pipeline/worker/__main__.py",
    "pipeline/worker/bench/speed.py",
    "pipeline/worker/optimizations/fused_ops.py",
    "pipeline/worker/optimizations/cuda_graph.py",
    "pipeline/worker/faults.py",
}
"""Files whose sentences go to the terminal, the log, metrics or a program, not to the page."""

UNSEEN = {
    "worker {}", "{} min", "{} queued", ", all done in {}", "i2vd {}", "i2vd, {}", "settle {}",
    "storage {} {}", "submission {}",
    "STATUS=stopping, the running attempt may finish", "STATUS=waiting: {}", "i2vd retry {}",
    "put a sound picture into the inbox again", "numbered() never ends", "ended by us", "no work",
    "{} may lead out of {}", "{} is no plain file", "queue.url {}: {}",
    "not a database", "file is encrypted", "unable to open", "timed out", "No such file",
    "starting up", "shutting down", "too many", "closed the connection", "maximum image size",
    "private, max-age=3600", "private, max-age=31536000, immutable", "`status` as it changes.",
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    'Basic realm="i2vd", charset="UTF-8"', "The request failed; `detail` gives the reason.",
    "the picture child was asked to {}", "tuple[float, float]", "model name", "string conversion",
    "(at end of document)", "{} while another request is being served", "out of memory",
    "can't allocate memory", "CUDA driver error", "; nvenc is not to be had", "Value error, ",
    # What is to be done about a lost child stands in the log alone.
    "a new worker gets a fresh context; if it comes again, look for Xid in `dmesg` and at the card "
    "in `nvidia-smi`",
    "the machine or the service (MemoryMax=) has too little memory beside what else runs there",
    "somebody sent the signal; a new one takes over",
    "its last words stand in the log before this line",
    "look at `nvidia-smi` and `dmesg`; on a slow machine raise `model.silence`",
    "this is a fault in i2vd or in a library: please report it with the log",
    "`i2vd check` looks at the model and the device; the job waits",
    "a new worker tries the same once more; if it comes often, see that nobody set "
    "PYTORCH_ALLOC_CONF without expandable_segments:True",
    "a new worker starts with all of the memory; if it comes with every clip, please report it "
    "with the log",
    # So does that our kernels are not kept, with the reason.
    "have it writable, or another folder in ${}",
}  # fmt: skip
"""What looks like a sentence to this test and is shown by no page."""

NOT_SPOKEN = {
    "log", "sa", "structlog", "re", "gauge", "Query", "Path", "Form", "Header", "Field", "print",
    "exec_driver_sql", "create_task", "literal_column",
}  # fmt: skip
"""What is called with texts that nobody is told."""

SENTENCE = re.compile(r"[a-z]{2,}[,;:)]* (\(?[a-z{\d\"'`])|[}'] [a-z]{2,}|[a-z]: ")


def spoken(path: Path) -> Iterator[str]:
    """The sentences in a file, with {} where something is filled in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    silent: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            silent.add(node.value)  # a docstring
        elif isinstance(node, ast.JoinedStr):
            silent |= {part for part in node.values if isinstance(part, ast.Constant)}
        elif isinstance(node, ast.Call):
            names = {getattr(n, "id", getattr(n, "attr", "")) for n in ast.walk(node.func)}
            if names & NOT_SPOKEN:
                told = [*node.args, *(keyword.value for keyword in node.keywords)]
                silent |= {each for argument in told for each in ast.walk(argument)}
    for node in ast.walk(tree):
        if node in silent:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
            text = "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if SENTENCE.search(text):
            yield text


def book() -> dict[str, str]:
    """The sentences and their Chinese."""
    lines = re.findall(r'^  ("(?:[^"\\]|\\.)*"): ("(?:[^"\\]|\\.)*"),$', BOOK, re.MULTILINE)
    return {json.loads(english): json.loads(chinese) for english, chinese in lines}


def files() -> list[Path]:
    found = [p for part in ("daemon", "pipeline", "rules") for p in (ROOT / part).rglob("*.py")]
    names = {path: str(path.relative_to(ROOT)) for path in found}
    return [
        path
        for path, name in names.items()
        if name not in ELSEWHERE and not {"cli", "micro"} & set(path.parts)
    ]


def test_every_sentence_that_the_page_shows_has_its_chinese() -> None:
    told = {text for path in files() for text in spoken(path)}
    assert told - UNSEEN - set(book()) == set(), "sentences.js lacks them"
    assert UNSEEN - told == set(), "nobody says them any more"
    assert len(told) > 200


def test_no_chinese_is_of_a_sentence_that_nobody_says() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in files())
    tree_texts = {text for path in files() for text in spoken(path)}
    for english in set(book()) - tree_texts:  # too short for a sentence
        assert all(part in code for part in english.split("{}") if part), english


def test_what_is_filled_in_is_filled_in_once() -> None:
    for english, chinese in book().items():
        holes = [str(number) for number in range(1, english.count("{}") + 1)]
        assert sorted(re.findall(r"\{(\d)[#@]?\}", chinese)) == holes, english
