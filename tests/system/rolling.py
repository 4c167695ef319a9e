"""A fleet upgraded host by host from an older version: `python -m tests.system.rolling REVISION`.

Both hosts begin with the revision's own code; then one after the other is drained, stopped, and
started with this one, while pictures are dropped all the time. Says what came of it; exit code 1
when a picture has not exactly one clip.
"""

import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

from daemon.fleet.identity import name_of
from tests.postgres import serving
from tests.system.fleet import Fleet
from tests.system.studio import ROOT, Studio, picture


def main() -> int:
    """Upgrade, print what was made by whom; the exit code."""
    (revision,) = sys.argv[1:]
    folder = Path(tempfile.mkdtemp(prefix="i2vd-rolling-"))
    old = folder / "old"
    subprocess.run(["git", "worktree", "add", "--detach", old, revision], cwd=ROOT, check=True)
    over, dropped = threading.Event(), 0
    try:
        with serving() as server:
            fleet = Fleet(folder, server)
            for host in fleet.hosts:
                host.environment["PYTHONPATH"] = str(old)
                host.start()

            def drop() -> None:
                nonlocal dropped
                while not over.wait(0.4):
                    fleet.any.drop(f"film{dropped}.png", picture(dropped))
                    dropped += 1

            dropping = threading.Thread(target=drop)
            dropping.start()
            try:
                for host in fleet.hosts:
                    name, other = host.root.name, fleet.other(host)
                    assert host.post(f"/api/hosts/{name}/drain").is_success
                    while _state(other, name) != "drained":
                        over.wait(0.2)
                    host.stop()
                    host.environment["PYTHONPATH"] = str(ROOT)
                    host.start()
                    assert host.post(f"/api/hosts/{name}/undrain").is_success
                    there = fleet.any.get("/api/hosts")
                    print({each["name"]: each["schema_version"] for each in there}, dropped)
                    over.wait(8)  # both work
            finally:
                over.set()
                dropping.join()
            for number in range(dropped):
                fleet.any.until_settled(f"film{number}.png", "done")
            made = Counter(name_of(job["owner"]) for job in fleet.any.jobs())
            clips = len(fleet.any.clips())
            print(f"{dropped} pictures, {clips} clips, made by {dict(made)}")
            fleet.close()
            return int(clips != dropped or sum(made.values()) != dropped)
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", old], cwd=ROOT, check=True)


def _state(host: Studio, name: str) -> str:
    return str(next(h["state"] for h in host.get("/api/hosts") if h["name"] == name))


if __name__ == "__main__":
    sys.exit(main())
