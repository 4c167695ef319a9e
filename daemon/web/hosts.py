"""The hosts of the queue over http: who is there, and drain one."""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path

from daemon.fleet.hosts import Host, Hosts, NoSuchHost

Name = Annotated[str, Path(alias="host", max_length=100, description="Name of the host.")]


def hosts(table: Hosts) -> APIRouter:
    """The calls."""
    calls = APIRouter(prefix="/api/hosts", tags=["hosts"])

    @calls.get("")
    def known() -> list[Host]:
        """Every host that works on the queue, or did within a month."""
        return table.all()

    @calls.post("/{host}/drain")
    def drain(name: Name) -> Host:
        """It finishes what it has and claims nothing more, over its restarts too."""
        return _drain(table, name, True)

    @calls.post("/{host}/undrain")
    def undrain(name: Name) -> Host:
        """It claims jobs again."""
        return _drain(table, name, False)

    return calls


def _drain(table: Hosts, name: str, draining: bool) -> Host:
    try:
        return table.drain(name, draining)
    except NoSuchHost as error:
        raise HTTPException(404, str(error)) from error
