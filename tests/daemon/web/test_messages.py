"""Messages in Chinese: what is translated, and that no name in them holds the page up."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daemon.web.static import FILES
from tests.daemon.web.test_sentences import read_catalog
from tests.system.needs import needs

_STUBS = """
globalThis.localStorage = { getItem: () => "zh" };
globalThis.navigator ??= { language: "zh" };
globalThis.document = { documentElement: {} };
const { translate } = await import("./messages.js");
"""

Node = Callable[[str, object], Any]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Run JavaScript beside the page's messages.js; `input` is given to it, `answer` returned."""
    program = needs("node", package="nodejs")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    for file in FILES.glob("*.js"):
        (tmp_path / file.name).write_bytes(file.read_bytes())

    def run(script: str, given: object) -> Any:
        (tmp_path / "input.json").write_text(json.dumps(given))
        text = (
            f'import fs from "node:fs";{_STUBS}'
            f'const input = JSON.parse(fs.readFileSync("input.json"));{script}'
            "console.log(JSON.stringify(answer));"
        )
        (tmp_path / "run.js").write_text(text)
        ended = subprocess.run(
            [program, "run.js"], cwd=tmp_path, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    return run


def filled(message: str, chinese: str) -> str:
    """Return a message with something in each place: a number, a child process, or a name."""
    for number in range(1, message.count("{}") + 1):
        value = f"name-{number}"
        if f"{{{number}#}}" in chinese:
            value = f"{number}.5"
        elif f"{{{number}@}}" in chinese:
            value = "the worker"
        message = message.replace("{}", value, 1)
    return message


def test_every_message_is_translated_with_what_is_filled_in(node: Node) -> None:
    catalog = read_catalog()
    messages = [filled(message, chinese) for message, chinese in catalog.items()]
    translated = node("const answer = input.map(translate);", messages)
    same = [m for m, chinese in zip(messages, translated, strict=True) if m == chinese]
    assert not same
    for message, chinese in zip(messages, translated, strict=True):
        for value in (f"name-{number}" for number in range(1, 5)):
            assert (value in message) == (value in chinese), (message, chinese)


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        (
            "no rule matches it; its ending is not that of a picture",
            ["no rule matches it", "its ending is not that of a picture"],
        ),
        ("inbox cats: no rule matches it", ["no rule matches it"]),
        ("10-cat.toml:3: warning: frames: this number", ["warning: ", "this number"]),
        ("cannot be decoded yet: is a symbolic link", ["is a symbolic link"]),
    ],
)
def test_messages_in_messages_are_translated(node: Node, message: str, parts: list[str]) -> None:
    found = node("const answer = translate(input);", message)
    for part in parts:
        assert read_catalog()[part] in found
        assert part not in found


HOSTILE = {
    "a list": "x; ",
    "a list of messages": "no rule matches it; ",
    "messages in messages": "cannot be decoded yet: ",
    "inboxes": "inbox a: ",
    "a pattern with two places": 'its name "',
    "ends of a pattern": '" does not fit ',
    "numbers": "1.",
    "places": "a: b, c (d) / ",
    "keys": "a.b: ",
    "lines": "a.toml:1: warning: ",
}


def test_no_name_takes_more_than_its_length(node: Node) -> None:
    """Of a text and one of four times its length, the longer takes four times as long, not 16."""
    script = """
    const answer = {};
    const time = (text) => Math.min(...Array.from({ length: 9 }, () => {
      const began = performance.now();
      translate(text);
      return performance.now() - began;
    }));
    for (const [name, part] of Object.entries(input)) {
      const [short, long] = [4000, 16000].map((length) => part.repeat(length / part.length));
      const around = (text) => `its name "${text}" does not fit ${text}; ${text}`;
      answer[name] = [short, long].map((text) => time(text) + time(around(text)));
    }
    """
    for name, (short, long) in node(script, HOSTILE).items():
        assert long < 8 * short + 20, f"{name}: {short:.1f} ms, then {long:.1f} ms"
        assert long < 2000, name
