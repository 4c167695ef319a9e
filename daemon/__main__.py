"""Entry point of the command `i2vd`. The commands are in `daemon/cli/`, one file per subject."""

import sys
from importlib.util import find_spec
from pathlib import Path

_OWN_PACKAGES = ("daemon", "pipeline", "rules")


def main() -> None:
    """Run the command line."""
    _refuse_foreign_packages()
    from daemon.cli.commands import app

    app(prog_name="i2vd")


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
