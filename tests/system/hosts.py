"""A network for a fleet: one network namespace for each host and for the database, and a bridge.

The test can reach each host's HTTP port: its socket is opened in the test's namespace and passed
on, as systemd does with socket activation.
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
_PASS_SOCKET = """\
import os, socket, sys
name, port, *command = sys.argv[1:]
held = socket.create_server(("127.0.0.1", int(port)))
os.dup2(held.fileno(), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execvp("nsenter", ["nsenter", f"--net=/run/netns/{name}", *command])
"""


class Network:
    """A bridge in its own namespace, and a namespace with an address for each name."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._prefix = f"i2vd{os.getpid() % 100000}"
        self._addresses = addresses

    def open(self) -> None:
        """Create the namespaces. Ends the test if that is not allowed."""
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
        """Namespace of the bridge."""
        return f"{self._prefix}-hub"

    def space(self, name: str) -> str:
        """Return the namespace of a name."""
        return f"{self._prefix}-{name}"

    def plug(self, device: str, ours: str) -> None:
        """Add a tap device to the bridge, for a machine with its own kernel.

        `ours`: address of the bridge, for connections to that machine.
        """
        self._ip("-n", self.hub, "addr", "replace", f"{ours}/24", "dev", "hub")
        self._ip("-n", self.hub, "tuntap", "add", device, "mode", "tap")
        self._ip("-n", self.hub, "link", "set", device, "master", "hub", "up")

    def prefix(self, name: str, port: int) -> list[str]:
        """Return a command prefix that runs in a namespace with an open port of this one."""
        return [sys.executable, "-c", _PASS_SOCKET, self.space(name), str(port)]

    def within(self, name: str) -> list[str]:
        """Return a command prefix that runs in a namespace."""
        return ["nsenter", f"--net={_NAMED / self.space(name)}"]

    def cut(self, name: str) -> None:
        """Disconnect a namespace silently: its packets are dropped."""
        self._ip("-n", self.hub, "link", "set", name, "nomaster")

    def reconnect(self, name: str) -> None:
        """Reconnect a namespace."""
        self._ip("-n", self.hub, "link", "set", name, "master", "hub")

    def close(self) -> None:
        """Delete all namespaces."""
        for name in (*map(self.space, self._addresses), self.hub):
            with contextlib.suppress(subprocess.CalledProcessError):
                self._ip("netns", "del", name)

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def network(*names: str, **addresses: str) -> Iterator[Network]:
    """Open a network; names without an address get ADDRESS 1, 2, ... in order."""
    numbered = {name: ADDRESS.format(number) for number, name in enumerate(names, start=1)}
    opened = Network(numbered | addresses)
    try:
        opened.open()
        yield opened
    finally:
        opened.close()
