"""The command `i2vd`. What a command does is in `daemon/cli/`, one file a subject."""

import sys
from importlib.util import find_spec
from pathlib import Path

OWN = ("daemon", "pipeline", "rules")
FOREIGN_PACKAGE = 2


def main() -> None:
    """Entry point."""
    _refuse_foreign_packages()
    from daemon.cli.commands import app

    app(prog_name="i2vd")


def _refuse_foreign_packages() -> None:
    """PyPI has other packages called daemon and rules; one of them in our place breaks us."""
    home = Path(__file__).resolve().parent.parent
    for name in OWN:
        spec = find_spec(name)
        where = Path(spec.origin).resolve() if spec and spec.origin else None
        if where is None or where.parent.parent != home:
            sys.exit(
                f"i2vd: the package {name!r} is not i2vd's own ({where}); install i2vd into a "
                f"virtual environment of its own, or `pip uninstall python-daemon` there"
            )


if __name__ == "__main__":
    main()
