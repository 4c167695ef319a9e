"""Hosts of the queue: list, drain and undrain them."""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path

from daemon.fleet.hosts import Host, Hosts, NoSuchHost

HostName = Annotated[str, Path(alias="host", max_length=100, description="Name of the host.")]


def create_router(table: Hosts) -> APIRouter:
    """Create the router of the hosts."""
    router = APIRouter(prefix="/api/hosts", tags=["hosts"])

    @router.get("")
    def list_hosts() -> list[Host]:
        """List the hosts that work on the queue, or did so within a month."""
        return table.all()

    @router.post("/{host}/drain")
    def drain_host(name: HostName) -> Host:
        """Drain a host: it finishes its running jobs and claims no more, across restarts too."""
        return _set_draining(table, name, True)

    @router.post("/{host}/undrain")
    def undrain_host(name: HostName) -> Host:
        """Let a drained host claim jobs again."""
        return _set_draining(table, name, False)

    return router


def _set_draining(table: Hosts, name: str, draining: bool) -> Host:
    try:
        return table.drain(name, draining)
    except NoSuchHost as error:
        raise HTTPException(404, str(error)) from error
