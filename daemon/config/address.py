"""Addresses to listen on: "127.0.0.1:7860", "[::1]:7860", and who reaches them."""

import ipaddress
import re


def split_address(address: str) -> tuple[str, int]:
    """Host and port of "127.0.0.1:7860" or "[::1]:7860"; port 0 where that is none."""
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return address, 0
    return host, int(port) if re.fullmatch(r"[0-9]{1,5}", port) else 0


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    address = ip(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def is_address(host: str) -> bool:
    """Whether it is an IP address, not a name."""
    return ip(host) is not None


def ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a host is; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
