"""Host and origin checks: by which names i2vd is asked, and by the pages of which site.

The host check stops DNS rebinding: a page whose own name resolves to this address. The origin check
stops a page of another site that uses the browser of an authorised user. A proxy may rewrite the
Host header, so a page at any name of `http.allowed_hosts` is i2vd's own, whatever port and scheme.
"""

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from daemon.config.address import host_of, is_address, is_loopback, port_of
from daemon.config.settings import Http
from rules.characters import quoted

_DEFAULT_PORTS = {"http": 80, "https": 443}


class KnownHosts:
    """Names and addresses by which this daemon is reached."""

    def __init__(self, http: Http) -> None:
        self._allowed = frozenset(http.allowed_hosts)
        self._names = self._allowed | {"localhost", "127.0.0.1", "::1", host_of(http.host)}
        self._any_address = not is_loopback(http.host)

    def refusal(self, headers: Headers) -> HTTPException | None:
        """Return why a request is refused by its Host, Origin or Sec-Fetch-Site header."""
        host = headers.get("host", "")
        if not self._is_known(host_of(host)):
            return HTTPException(
                400,
                f"the request is for {quoted(host)}, which is none of this machine's names; add it "
                "to http.allowed_hosts",
            )
        origin = headers.get("origin")
        if origin is not None:
            return None if self._is_own(origin, host) else _other_origin(origin, host)
        site = headers.get("sec-fetch-site", "none")
        if site in ("same-origin", "none") or headers.get("sec-fetch-mode") == "navigate":
            return None
        return HTTPException(403, "requests of other sites' pages are refused")

    def _is_known(self, host: str) -> bool:
        return host in self._names or (self._any_address and is_address(host))

    def _is_own(self, origin: str, host: str) -> bool:
        scheme, _, authority = origin.partition("://")
        if host_of(authority) in self._allowed:
            return True
        port = port_of(authority) or _DEFAULT_PORTS.get(scheme)
        ports = {port_of(host)} if port_of(host) else {*_DEFAULT_PORTS.values()}
        return host_of(authority) == host_of(host) and port in ports


def _other_origin(origin: str, host: str) -> HTTPException:
    name = host_of(origin.partition("://")[2])
    if not name:  # "null": a sandboxed frame, a file, a redirect from elsewhere
        return HTTPException(403, "requests of other sites' pages are refused")
    return HTTPException(
        403,
        f"the page is at {quoted(origin)}, the request is for {quoted(host)}: if the page is "
        f"i2vd's own, behind a proxy, add {quoted(name)} to http.allowed_hosts",
    )
