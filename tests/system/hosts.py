"""Hosts of a fleet as the network sees them: each in a network namespace of its own.

The database has one too; a bridge joins them all. Each host's http port stays reachable from the
test, for its socket is opened here and handed over, as systemd does it.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.system.needs import missing, needs

ADDRESS = "10.231.77.{}"
_NAMED = Path("/run/netns")
_HAND_OVER = """\
import os, socket, sys
name, port, *command = sys.argv[1:]
held = socket.create_server(("127.0.0.1", int(port)))
os.dup2(held.fileno(), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execvp("nsenter", ["nsenter", f"--net=/run/netns/{name}", *command])
"""


class Network:
    """A bridge in a namespace, and a namespace for each name on it, at an address."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._prefix = f"i2vd{os.getpid() % 100000}"
        self._addresses = addresses

    def open(self) -> None:
        """Make it. Ends the test where that is not allowed."""
        needs("ip", package="iproute2")
        try:
            self._ip("netns", "add", self.hub)
        except subprocess.CalledProcessError:
            missing("network namespaces cannot be made here; run this test as root")
        self._ip("-n", self.hub, "link", "add", "hub", "type", "bridge")
        self._ip("-n", self.hub, "link", "set", "hub", "up")
        for name, address in self._addresses.items():
            space = self.space(name)
            self._ip("netns", "add", space)
            self._ip("-n", space, "link", "set", "lo", "up")
            self._ip("-n", space, "link", "add", "up0", "type", "veth", "peer", "name", name)
            self._ip("-n", space, "link", "set", name, "netns", self.hub)
            self._ip("-n", self.hub, "link", "set", name, "master", "hub", "up")
            self._ip("-n", space, "addr", "add", f"{address}/24", "dev", "up0")
            self._ip("-n", space, "link", "set", "up0", "up")

    @property
    def hub(self) -> str:
        """The bridge's namespace."""
        return f"{self._prefix}-hub"

    def space(self, name: str) -> str:
        """The namespace of that name."""
        return f"{self._prefix}-{name}"

    def plug(self, device: str, ours: str) -> None:
        """A tap device in the bridge's namespace, for a machine that brings its own kernel.

        `ours`: the address by which it is spoken to from there.
        """
        self._ip("-n", self.hub, "addr", "replace", f"{ours}/24", "dev", "hub")
        self._ip("-n", self.hub, "tuntap", "add", device, "mode", "tap")
        self._ip("-n", self.hub, "link", "set", device, "master", "hub", "up")

    def prefix(self, name: str, port: int) -> list[str]:
        """A command that becomes another one in a namespace, with a port of ours handed over."""
        return [sys.executable, "-c", _HAND_OVER, self.space(name), str(port)]

    def within(self, name: str) -> list[str]:
        """A command that becomes another one in a namespace."""
        return ["nsenter", f"--net={_NAMED / self.space(name)}"]

    def cut(self, name: str) -> None:
        """From now on nothing gets through, and nobody is told: packets vanish."""
        self._ip("-n", self.hub, "link", "set", name, "nomaster")

    def mend(self, name: str) -> None:
        """The cable is back."""
        self._ip("-n", self.hub, "link", "set", name, "master", "hub")

    def close(self) -> None:
        """Leave none of it behind."""
        for name in (*map(self.space, self._addresses), self.hub):
            with contextlib.suppress(subprocess.CalledProcessError):
                self._ip("netns", "del", name)

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def network(*names: str, **addresses: str) -> Iterator[Network]:
    """A network for a while; the first of those without an address has ADDRESS 1, the next 2 ..."""
    numbered = {name: ADDRESS.format(number) for number, name in enumerate(names, start=1)}
    made = Network(numbered | addresses)
    try:
        made.open()
        yield made
    finally:
        made.close()
