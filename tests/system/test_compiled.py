"""Compiled and plain clips are told apart by their sidecars, and each made again as it was.

The real commands and the real worker, but that its compiled blocks are stand-ins which round
otherwise, for kernels take minutes.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

import daemon.cli.render
from daemon.cli.commands import app
from pipeline.sidecar import Sidecar
from tests.system.studio import ROOT, picture

pytestmark = pytest.mark.slow

Told = tuple[Sidecar, str]
Command = Callable[..., Told]
"""Runs `i2vd ARGUMENTS` for a clip, with `model.compile`; its sidecar, and what was printed."""


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "cat.png").write_bytes(picture(5))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "cache"))
        patch.setenv("I2VD_TORCH_THREADS", "1")
        patch.setenv("I2VD_MODEL__DEVICES", '["cpu"]')
        stand_in = partial(daemon.cli.render.Maker, module="tests.pipeline.worker.rounding")
        patch.setattr(daemon.cli.render, "Maker", stand_in)

        def run(*arguments: str, compile: str, **environment: str) -> Told:
            env = {"I2VD_MODEL__COMPILE": compile, "COLUMNS": "200", **environment}
            ended = CliRunner().invoke(app, [*arguments], env=env)
            assert ended.exit_code == 0, ended.output
            clip = arguments[arguments.index("-o") + 1]
            return Sidecar.model_validate_json(Path(f"{clip}.json").read_text()), ended.output

        yield run


def test_a_clip_is_made_again_as_it_was(command: Command) -> None:
    """Whatever the settings say now; and what cannot be made so is told."""
    wanted = ("--prompt", "camera panning left", "--preset", "draft", "--size", "32")
    compiled, _ = command("render", "cat.png", *wanted, "-o", "compiled.mp4", compile="on")
    assert compiled.given.compiled is True
    again, said = command("replay", "compiled.mp4.json", "-o", "again.mp4", compile="off")
    assert "the same clip, byte for byte" in said
    assert again.given == compiled.given

    plain, said = command(
        *("replay", "compiled.mp4.json", "-o", "plain.mp4"), compile="on", ROUNDING="never"
    )
    assert "differs: compiled was true, is false" in said
    assert plain.given.compiled is False
    assert plain.output.sha256 != compiled.output.sha256
    again, said = command("replay", "plain.mp4.json", "-o", "plainly.mp4", compile="on")
    assert "the same clip, byte for byte" in said
    assert again.given == plain.given
