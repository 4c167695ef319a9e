"""Field types of the settings: each rejects a bad value with a message for the operator."""

import os
import re
import socket
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from daemon.config.address import host_of, is_address

CONFIG_VARIABLE = "I2VD_CONFIG"
CHILD_VARIABLES = frozenset(
    {
        CONFIG_VARIABLE,
        "I2VD_CHANNEL",
        "I2VD_TESTING",
        "I2VD_TEST_FAULT",
        "I2VD_TORCH_THREADS",
        "I2VD_TIMELINE",
        "I2VD_PICTURE_MEMORY",
        "I2VD_PICTURE_PIXELS",
    }
)
"""Environment variables that are not settings; child processes read them."""

_MAX_PATH_BYTES = 2000
_MAX_NAME_BYTES = 255


def _check_path(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("no path can hold a zero byte")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8; rename the folder, or choose another") from None
    names = [*map(os.fsencode, path.parts)]
    if len(bytes(path)) > _MAX_PATH_BYTES or any(len(name) > _MAX_NAME_BYTES for name in names):
        raise ValueError("is too long for a path")
    try:
        path.expanduser()
    except RuntimeError:
        raise ValueError("there is no such user, or no such home") from None
    return path


def _check_model_name(name: str) -> str:
    _check_path(Path(name))
    return name


def _check_database_url(url: str) -> str:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(url).get_dialect()
    except (ArgumentError, ValueError):
        raise ValueError("is no SQLAlchemy URL, such as sqlite:////srv/q.sqlite") from None
    return url


def _check_http_host(name: str) -> str:
    """Return the name as it is compared; a name in another script becomes its ASCII form."""
    host = host_of(name) if is_address(name.strip("[]")) else name.lower().removesuffix(".")
    if not is_address(host):
        try:
            host = host.encode("idna").decode()
        except UnicodeError:
            host = ""
    if not re.fullmatch(r"[a-z0-9._-]{1,253}", host) and not is_address(host):
        raise ValueError("must be a name or address without scheme and port, such as studio.lan")
    return host


def _check_webhook_url(url: str) -> str:
    import httpx2  # takes a while, and few settings have a webhook

    try:
        parsed = httpx2.URL(url)
        httpx2.Request("POST", parsed)
    except (httpx2.InvalidURL, ValueError) as error:
        raise ValueError(f"is no URL: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError("must be an http or https URL with a host")
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise ValueError("its port must be 1 to 65535")
    try:
        parsed.host.encode("idna")
    except UnicodeError as error:
        raise ValueError(f"its host is no name: {error}") from None
    return url


def local_host_name() -> str:
    """Return the name of this machine, in characters that `HOST` allows."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64] or "localhost"


HOST = r"^[A-Za-z0-9._-]{1,64}$"
ConfigPath = Annotated[Path, AfterValidator(_check_path)]
ModelName = Annotated[str, AfterValidator(_check_model_name)]
HttpHost = Annotated[str, AfterValidator(_check_http_host)]
DatabaseUrl = Annotated[str, AfterValidator(_check_database_url)]
WebhookUrl = Annotated[str, AfterValidator(_check_webhook_url)]
