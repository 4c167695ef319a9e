"""Listen addresses: parse "127.0.0.1:7860" and "[::1]:7860", and classify hosts."""

import ipaddress
import re


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of "127.0.0.1:7860" or "[::1]:7860"; port 0 if it is invalid."""
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return address, 0
    return host, int(port) if re.fullmatch(r"[0-9]{1,5}", port) else 0


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach the host."""
    address = ip(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def is_address(host: str) -> bool:
    """Return True if the host is an IP address, not a name."""
    return ip(host) is not None


def ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the host as an IP address; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
