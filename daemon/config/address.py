"""Addresses: parse "127.0.0.1:7860" and "[::1]:7860", classify hosts, and normalise their names."""

import ipaddress
import re

_PORT = re.compile(r":[0-9]*$")


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of "127.0.0.1:7860" or "[::1]:7860"; port 0 if it is invalid."""
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return address, 0
    return host, int(port) if re.fullmatch(r"[0-9]{1,5}", port) else 0


def host_of(authority: str) -> str:
    """Return the host of "NAME", "NAME:PORT" or "[IPv6]:PORT" in the one form that is compared.

    Lower case, without a final dot, an IP address in its shortest form.
    """
    host = authority if ip(authority) else _PORT.sub("", authority)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    host = host.lower().removesuffix(".")
    return str(ip(host) or host)


def port_of(authority: str) -> int | None:
    """Return the port of "NAME:PORT" or "[IPv6]:PORT"; None if it names none."""
    found = _PORT.search(authority)
    return int(found[0][1:] or 0) or None if found and ip(authority) is None else None


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach the host."""
    address = ip(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def is_address(host: str) -> bool:
    """Return True if the host is an IP address, not a name."""
    return ip(host) is not None


def ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the host as an IP address, an IPv4 one in IPv6 as IPv4; None for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def peer_of(host: str) -> str:
    """Return what counts as one peer: an IPv4 address, or the /64 network of an IPv6 address."""
    address = ip(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and not address.is_loopback:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address or host)
