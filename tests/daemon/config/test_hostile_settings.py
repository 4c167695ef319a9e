"""Arbitrary settings: valid, or errors that name the file."""

import os
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.config.loader import load
from daemon.config.settings import Settings, SettingsError
from daemon.jobs.database import Database, DatabaseUnusable
from rules.characters import has_unsafe
from tests.anything import toml, values


def sound_or_told(config: Path) -> None:
    """Usable settings, or mistakes in lines that name the file."""
    try:
        assert isinstance(load(config), Settings)
    except SettingsError as error:
        lines = str(error).split("\n")
        assert all(line.startswith(f"{config}: ") and not has_unsafe(line) for line in lines)
        assert all(len(line) < 400 for line in lines)


SECTIONS = {
    name: list(Settings.model_fields[name].annotation.model_fields)  # type: ignore[union-attr]
    for name in ("queue", "model", "quality", "http", "log")
}
INBOX = [
    "name", "path", "outbox", "rules", "archive", "failed", "recursive", "stability_delay",
    "on_success",
]  # fmt: skip
paths = st.sampled_from(
    [
        *((name,) for name in Settings.model_fields),
        *((section, key) for section, keys in SECTIONS.items() for key in keys),
        *(("inbox", key) for key in INBOX),
    ]
)
places = st.sampled_from(["\0", "~nobody/x", "x" * 300, "x/" * 3000, "", "\x1b[31m", "/dev/null"])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(paths, values | places), min_size=1, max_size=3))
def test_any_value_of_any_setting(
    tmp_path_factory: pytest.TempPathFactory, given_values: list[tuple[tuple[str, ...], object]]
) -> None:
    tree: dict[str, object] = {}
    for path, value in given_values:
        if len(path) == 1:
            tree[path[0]] = value
        elif isinstance(table := tree.setdefault(path[0], {}), dict):
            table[path[1]] = value
    if isinstance(tree.get("inbox"), dict):
        tree["inbox"] = [tree["inbox"]]
    config = tmp_path_factory.getbasetemp() / "any.toml"
    config.write_text("".join(f"{toml(key)} = {toml(value)}\n" for key, value in tree.items()))
    sound_or_told(config)


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=60) | st.text('[]{}="\n.#inboxpath1', max_size=60).map(str.encode))
def test_any_bytes_of_a_settings_file(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    config = tmp_path_factory.getbasetemp() / "bytes.toml"
    config.write_bytes(content)
    sound_or_told(config)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a = " + "[" * 50_000, "is nested too deeply"),
        ("stop_grace = " + "1" * 9000, "a number has too many digits"),
        ("stop_grace = 0x" + "f" * 9000, "stop_grace: "),
        ('state = "\\u0000"', "state: no path can hold a zero byte"),
        ('[[inbox]]\npath = "~nobody-of-that-name/x"', "inbox.0.path: there is no such user"),
        (f'[model]\nname = "{"x" * 300}"', "model.name: is too long for a path"),
        (f'[[inbox]]\noutbox = "{"x/" * 3000}"', "inbox.0.outbox: is too long for a path"),
        ("scan_interval = inf", "scan_interval: "),
        ("scan_interval = nan", "scan_interval: "),
        ("stop_grace = 1e300", "stop_grace: "),
        ("[queue]\nlease = 1e12", "queue.lease: "),
        ("[model.heartbeat_timeouts]\nload = 1e300", "model.heartbeat_timeouts.load: "),
        ('[http]\nlisten = "127.0.0.1:70000"', "http.listen: "),
        ('[queue]\nurl = "garbage"', "queue.url: is no SQLAlchemy URL"),
        ('[queue]\nurl = "nosuch://x"', "queue.url: is no SQLAlchemy URL"),
        ('[[webhook]]\nurl = "http://h:99999/x"', "webhook.0.url: its port must be 1 to 65535"),
        ('[[webhook]]\nurl = "http://h:0/x"', "webhook.0.url: its port must be 1 to 65535"),
        ('[[webhook]]\nurl = "http://[::1/x"', "webhook.0.url: is no URL"),
        ('[[webhook]]\nurl = "http://a..b/x"', "webhook.0.url: its host is no name"),
        (f'[[webhook]]\nurl = "http://{"a" * 70}/"', "webhook.0.url: its host is no name"),
        ('"\\u001b[31m" = 1', "unknown key '\\x1b[31m'"),
    ],
)
def test_what_would_fail_later_is_told_at_once(tmp_path: Path, text: str, says: str) -> None:
    config = tmp_path / "i2vd.toml"
    config.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(config)
    assert str(caught.value).startswith(f"{config}: ")
    assert says in str(caught.value)
    assert len(str(caught.value)) < 600


VARIABLES = [f"I2VD_{name}".upper() for name in Settings.model_fields] + [
    f"I2VD_{section}__{key}".upper() for section, keys in SECTIONS.items() for key in keys
]
texts = (
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=30)
    | st.sampled_from(
        ["{", "[", "[{}]", '[{"path": "x"}]', "null", "1e999", "[" * 50_000, "x" * 5000]
    )
    | st.binary(max_size=10).map(lambda data: os.fsdecode(data.replace(b"\0", b"")))
    | values.map(toml)
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(VARIABLES), texts, min_size=1, max_size=2))
def test_any_value_of_any_variable(
    tmp_path_factory: pytest.TempPathFactory, variables: dict[str, str]
) -> None:
    config = tmp_path_factory.getbasetemp() / "empty.toml"
    config.write_text("")
    environment = {name: value.replace("\0", "") for name, value in variables.items()}
    with mock.patch.dict(os.environ, environment):
        sound_or_told(config)


def test_a_variable_that_is_no_list_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("I2VD_MODEL__DEVICES", "cuda:0")
    with pytest.raises(SettingsError, match=r'"model".*a list or a table is written as JSON'):
        load(None)


SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f'[queue]\nurl = "garbage:{SECRET}"',
        f'[queue]\nurl = "nosuch://user:{SECRET}@host/x"',
        f'queue = "postgresql://user:{SECRET}@host/x"',
        f'queue = [{{url = "{SECRET}"}}]',
        f'webhook = "https://hook/{SECRET}"',
        f'[[webhook]]\nurl = "https://host:99999/{SECRET}"',
        f'[[webhook]]\nurl = "ftp://user:{SECRET}@host/"',
        f'[[webhook]]\nurl = "https://host/{SECRET}"\nevents = "{SECRET}"',
    ],
)
def test_no_mistake_repeats_a_secret(tmp_path: Path, text: str) -> None:
    config = tmp_path / "i2vd.toml"
    config.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(config)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
def test_settings_are_read_as_editors_write_them(tmp_path: Path, line_break: str) -> None:
    config = tmp_path / "i2vd.toml"
    config.write_bytes(b"\xef\xbb\xbf" + f"stop_grace = 7{line_break}min_free = 1".encode())
    assert load(config).stop_grace == 7
    config.write_text("stop_grace = 7", encoding="utf-16")
    with pytest.raises(SettingsError, match="UTF-16"):
        load(config)


def test_settings_may_come_by_a_pipe(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.write(write, b"stop_grace = 7")
    os.close(write)
    assert load(Path(f"/dev/fd/{read}")).stop_grace == 7
    os.close(read)


@pytest.mark.parametrize(
    "name", ["a?b", "a#b", "a%20b", "a b", "a&uri=true", "file:a", "猫", "'\";--"]
)
def test_the_queue_lies_in_the_state_folder_whatever_its_name(tmp_path: Path, name: str) -> None:
    config = tmp_path / "i2vd.toml"
    config.write_text(f"state = {toml(name)}")
    (tmp_path / name).mkdir()
    Database(load(config).queue_url).close()
    assert (tmp_path / name / "queue.sqlite").is_file()
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([name, "i2vd.toml"])


def test_a_folder_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "i2vd.toml").write_text("")
    with pytest.raises(SettingsError, match="state: is not UTF-8; rename the folder"):
        load(folder / "i2vd.toml")


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://user:{SECRET}@127.0.0.1:1/x",
        f"postgresql+psycopg://127.0.0.1:1/x?password={SECRET}&sslpassword={SECRET}",
    ],
)
def test_no_error_of_the_queue_repeats_its_password(url: str) -> None:
    with pytest.raises(DatabaseUnusable) as caught:
        Database(url)
    assert SECRET not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)
