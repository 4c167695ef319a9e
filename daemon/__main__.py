"""Entry point of the command `i2vd`. The commands are in `daemon/cli/`, one file per subject."""

import io
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from daemon.signals import SIGNALS

_OWN_PACKAGES = ("daemon", "pipeline", "rules")


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["run"]:
        SIGNALS.install()  # before the imports, which take a second or two
    _open_standard_streams()
    _refuse_foreign_packages()
    from daemon.cli.commands import app

    try:
        app(prog_name="i2vd")
    except OSError as error:
        sys.exit(f"i2vd: {error}")


def _open_standard_streams() -> None:
    """Open /dev/null in the place of standard streams that the caller closed.

    Otherwise the next file that is opened, perhaps the queue, would get what is meant for stderr.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that is not UTF-8 is shown escaped
        sys.stdout.reconfigure(errors="backslashreplace")


def _refuse_foreign_packages() -> None:
    """Exit with a message if another distribution's package shadows one of i2vd's.

    PyPI has other packages called daemon and rules, and i2vd cannot run with one of them.
    """
    home = Path(__file__).resolve().parent.parent
    for name in _OWN_PACKAGES:
        spec = find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is None or origin.parent.parent != home:
            sys.exit(
                f"i2vd: the package {name!r} is not i2vd's own ({origin}); install i2vd into a "
                f"virtual environment of its own, or `pip uninstall python-daemon` there"
            )


if __name__ == "__main__":
    main()
