"""Settings: defaults that work, all mistakes reported, the nearest key named."""

from pathlib import Path

import pytest

from daemon.config.loader import find_config, load
from daemon.config.settings import Settings, SettingsError


def write(folder: Path, text: str) -> Path:
    config = folder / "i2vd.toml"
    config.write_text(text)
    return config


def mistakes(folder: Path, text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(write(folder, text))
    return str(caught.value)


def test_without_a_file_everything_lies_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(None)
    assert settings.state == tmp_path / ".i2vd"
    assert settings.inbox[0].path == tmp_path / "inbox"
    assert settings.http.listen == "127.0.0.1:7860"
    assert settings.model.name == "micro"
    assert settings.stop_grace == 90
    assert str(settings.queue_url) == f"sqlite:///{tmp_path}/.i2vd/queue.sqlite"


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    settings = load(write(tmp_path / "sub", '[[inbox]]\npath = "../in"\n'))
    assert settings.inbox[0].path == tmp_path / "in"


def test_several_inboxes(tmp_path: Path) -> None:
    text = """
        [[inbox]]
        name = "cats"
        path = "cats/in"
        on_success = "keep"
        recursive = false
        stability_delay = 5
        [[inbox]]
        name = "dogs"
        path = "dogs/in"
    """
    settings = load(write(tmp_path, text))
    assert [inbox.name for inbox in settings.inbox] == ["cats", "dogs"]
    assert settings.inbox[0].on_success == "keep"
    assert settings.inbox_named("dogs") == settings.inbox[1]
    assert settings.inbox_named("cows") is None


def test_a_host_watches_the_inboxes_that_it_is_told(tmp_path: Path) -> None:
    inboxes = '[[inbox]]\nname = "cats"\n[[inbox]]\nname = "dogs"\npath = "dogs"\n'
    for watch, names in (
        ("", ["cats", "dogs"]),
        ('watch = ["dogs"]\n', ["dogs"]),
        ("watch=[]\n", []),
    ):
        settings = load(write(tmp_path, watch + inboxes))
        assert [inbox.name for inbox in settings.watched] == names
    said = mistakes(tmp_path, 'watch = ["cows"]\n' + inboxes)
    assert "there is no [[inbox]] 'cows'; known: cats, dogs" in said


def test_a_host_has_a_name_without_spaces(tmp_path: Path) -> None:
    assert load(write(tmp_path, 'host = "gpu-1.studio"')).host == "gpu-1.studio"
    assert "host" in mistakes(tmp_path, 'host = "my machine"')


def test_variables_win_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("I2VD_HTTP__LISTEN", "127.0.0.1:1234")
    monkeypatch.setenv("I2VD_STOP_GRACE", "7")
    settings = load(write(tmp_path, 'stop_grace = 3\n[http]\nlisten = "127.0.0.1:9999"\n'))
    assert settings.http.listen == "127.0.0.1:1234"
    assert settings.stop_grace == 7


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    said = mistakes(tmp_path, 'stop_grce = 3\n[model]\nnam = "x"\n[[inbox]]\nstability_dela = 1\n')
    assert "unknown key 'stop_grce'; did you mean 'stop_grace'?" in said
    assert "unknown key 'model.nam'; did you mean 'name'?" in said
    assert "unknown key 'inbox.0.stability_dela'; did you mean 'stability_delay'?" in said


def test_an_unknown_variable_names_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("I2VD_STOP_GRAC", "7")
    assert "unknown variable I2VD_STOP_GRAC; did you mean I2VD_STOP_GRACE?" in mistakes(
        tmp_path, ""
    )


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    said = mistakes(
        tmp_path,
        'stop_grace = -1\n[http]\nlisten = "0.0.0.0:80"\n[[inbox]]\non_success = "burn"\n',
    )
    assert len(said.splitlines()) == 3
    assert all(line.startswith(str(tmp_path)) for line in said.splitlines())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[inbox]]\nname="a"\n[[inbox]]\nname="a"\npath="b"\n', "same name"),
        ('[[inbox]]\nname="a"\npath="x"\n[[inbox]]\nname="b"\npath="x/y"\n', "lies inside inbox"),
        ('[[inbox]]\narchive="inbox/done"\n', "lies inside the inbox itself"),
        ("not toml", "not TOML"),
        ("inbox = []\n", "inbox"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, text: str, says: str) -> None:
    assert says in mistakes(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml: no such file"):
        load(tmp_path / "none.toml")


def test_the_file_is_found_in_its_usual_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("I2VD_CONFIG", raising=False)
    here = write(tmp_path, "")
    assert find_config(None) == Path(here.name)
    monkeypatch.setenv("I2VD_CONFIG", "/somewhere.toml")
    assert find_config(None) == Path("/somewhere.toml")
    assert find_config(Path("given.toml")) == Path("given.toml")


def test_a_local_model_folder_is_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    settings = load(write(tmp_path, '[model]\nname = "weights"\n'))
    assert settings.model.name == str(tmp_path / "weights")


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().stop_grace = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "size"), [("8GB", 8 * 10**9), ("6 GiB", 6 << 30), ("9000", 9000)]
)
def test_a_size_of_memory_has_a_unit(
    monkeypatch: pytest.MonkeyPatch, given: str, size: int
) -> None:
    monkeypatch.setenv("I2VD_MODEL__MAX_VRAM", given)
    model = load(None).model
    assert model.max_vram == size
    assert model.load_on("cuda:1").max_memory == size


def test_kernels_are_kept_with_the_state_unless_the_service_says_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    assert load(None).caches == {"TRITON_CACHE_DIR": str(tmp_path / ".i2vd/compiled")}
    monkeypatch.setenv("TRITON_CACHE_DIR", "/var/cache/i2vd/compiled")
    assert load(None).caches == {}


@pytest.mark.parametrize("given", ["0", "-1", "much", "8 GX"])
def test_what_is_no_size_of_memory_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("I2VD_MODEL__MAX_VRAM", given)
    with pytest.raises(SettingsError, match="max_vram"):
        load(None)


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:7860", "http://127.0.0.1:7860"),
        ("localhost:80", "http://localhost:80"),
        ("[::1]:7860", "http://[::1]:7860"),
        ("0.0.0.0:7860", "http://127.0.0.1:7860"),
        ("[::]:7860", "http://[::1]:7860"),
        ("10.1.2.3:7860", "http://10.1.2.3:7860"),
    ],
)
def test_programs_here_find_the_daemon_at_any_address(
    tmp_path: Path, listen: str, url: str
) -> None:
    http = load(write(tmp_path, f'[http]\nlisten = "{listen}"\ntoken_file = "token"\n')).http
    assert http.url == url
    assert http.token_file == tmp_path / "token"


@pytest.mark.parametrize(
    "listen", ["7860", "studio.lan:7860", "::1:7860", "127.0.0.1:0", "127.0.0.1:x", "[::1]:70000"]
)
def test_what_is_no_address_is_refused(tmp_path: Path, listen: str) -> None:
    said = mistakes(tmp_path, f'[http]\nlisten = "{listen}"\ntoken_file = "token"\n')
    assert "http.listen: must be ADDRESS:PORT" in said


@pytest.mark.parametrize("listen", ["0.0.0.0:7860", "[::]:7860", "192.168.1.5:7860"])
def test_an_address_that_others_reach_demands_a_token(tmp_path: Path, listen: str) -> None:
    said = mistakes(tmp_path, f'[http]\nlisten = "{listen}"\n')
    assert f"other machines reach {listen}: set http.token_file" in said


def test_paths_in_variables_are_relative_to_the_file_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "i2vd.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("I2VD_STATE", "queue")
    monkeypatch.setenv("I2VD_HTTP__TOKEN_FILE", "token")
    monkeypatch.setenv("I2VD_INBOX", '[{"path": "drops"}]')
    settings = load(Path("sub/i2vd.toml"))
    assert settings.state == tmp_path / "sub" / "queue"
    assert settings.http.token_file == tmp_path / "sub" / "token"
    assert settings.inbox[0].path == tmp_path / "sub" / "drops"
