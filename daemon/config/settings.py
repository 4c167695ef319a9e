"""Settings: keys, allowed values, defaults, and the checks across keys.

Every key has a default, so that `i2vd run` works in an empty folder. loader.py reads the file and
the environment.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from daemon.config.address import ip, is_address, is_loopback, split_address
from daemon.config.fields import (
    HOST,
    ConfigPath,
    DatabaseUrl,
    HttpHost,
    ModelName,
    WebhookUrl,
    local_host_name,
)
from pipeline.children.protocol import Dtype, Load, Stage
from pipeline.quality import QualityLimits
from pipeline.request.presets import MICRO
from rules.override import AllowedOverrides

if TYPE_CHECKING:
    from sqlalchemy import URL

ENV_PREFIX = "I2VD_"
_YEAR = 366.0 * 24 * 3600
Seconds = Annotated[float, Field(ge=0, le=_YEAR)]
PositiveSeconds = Annotated[float, Field(gt=0, le=_YEAR)]


class SettingsError(Exception):
    """The configuration cannot be used; one line for each mistake."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Inbox(_Section):
    """A watched folder, and the folders for its pictures and clips."""

    name: str = Field(default="inbox", pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")
    path: ConfigPath = Path("inbox")
    outbox: ConfigPath = Path("outbox")
    rules: ConfigPath = Path("rules")
    archive: ConfigPath = Path("archive")
    """Folder for a picture whose clip is published."""
    failed: ConfigPath = Path("failed")
    """Folder for a picture without a clip, with a file that gives the reason."""
    recursive: bool = True
    """Scan subfolders too; the outbox mirrors them."""
    stability_delay: Seconds = 2.0
    """Seconds without a change before a file is decoded."""
    unreadable_timeout: Seconds = 30.0
    """Seconds after which an unchanged file that cannot be decoded is rejected."""
    on_success: Literal["archive", "keep", "delete"] = "archive"
    """Treatment of the picture after its clip is published."""
    overrides: AllowedOverrides = "all"
    """Settings that a picture may bring with it, in a file beside it or by the API."""


class Queue(_Section):
    """The database of jobs, and the retry policy."""

    url: DatabaseUrl | None = None
    """SQLAlchemy URL; default: SQLite in the state folder."""
    max_attempts: int = Field(default=3, ge=1, le=20)
    """Failed attempts, or lost child processes, after which a job fails."""
    lease: Seconds = 30.0
    """Seconds without a heartbeat after which an owner loses its job."""
    backoff: Seconds = 5.0
    """Seconds before the second attempt; doubled for each further one."""
    keep_days: float | None = Field(default=None, ge=7, le=36_500)
    """Days for which a finished job stays in the queue; default: for ever."""
    keep_jobs: int | None = Field(default=None, ge=0)
    """Finished jobs that stay at most, the newest, besides those of the last 7 days."""


class Model(_Section):
    """The model, its devices and its data type."""

    name: ModelName = MICRO
    """"micro", a folder in diffusers layout, or a hub id that was pulled."""
    devices: tuple[str, ...] = ("auto",)
    """"auto" (all CUDA devices, else the CPU), "cpu", "cuda:0" ...; empty: no jobs here."""
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    """"auto" is float16 on CUDA and float32 on a CPU."""
    heartbeat_timeouts: dict[Stage, PositiveSeconds] = {}
    """Heartbeat timeout in seconds by stage; missing stages use the protocol's defaults."""
    unload_after_idle: Seconds = 0.0
    """Seconds without work after which a worker is stopped to free its memory; 0: never."""
    max_vram: ByteSize | None = Field(default=None, gt=0)
    """Limit on a device's memory in bytes; on a CPU it counts the model's tensors."""
    fp8: bool = False
    """Try 8-bit weights before offloading: faster, and the clip changes a little."""

    def dtype_on(self, device: str) -> Dtype:
        """Return the data type for a device."""
        if self.dtype != "auto":
            return self.dtype
        return "float16" if device.startswith("cuda") else "float32"

    def load_on(self, device: str) -> Load:
        """Return the load command for a worker on a device."""
        dtype = self.dtype_on(device)
        return Load(model=self.name, device=device, dtype=dtype, max_memory=self.max_vram)


class Http(_Section):
    """The API, the health checks and the metrics."""

    listen: str = "127.0.0.1:7860"
    """ADDRESS:PORT; an address that other machines can reach requires a token."""
    token_file: ConfigPath | None = None
    """File with the token that every request must carry."""
    allowed_hosts: tuple[HttpHost, ...] = ()
    """Names of this machine in a Host or Origin header, besides localhost and its address."""
    max_upload: ByteSize = Field(default=ByteSize(100_000_000), gt=0)
    """Limit on one upload in bytes."""
    max_uploads: int = Field(default=4, ge=1, le=1000)
    """Uploads that are received at once; others wait."""
    max_connections: int = Field(default=512, ge=8, le=60_000)
    """Open connections; at the bound the oldest idle one is closed for a new one."""
    max_connections_per_peer: int = Field(default=128, ge=1, le=60_000)
    """Open connections of one address; at most half of all."""

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, value: str) -> str:
        host, port = split_address(value)
        if not 0 < port < 65536 or not (host == "localhost" or is_address(host)):
            raise ValueError("must be ADDRESS:PORT, such as 127.0.0.1:7860 or [::]:7860")
        return value

    @model_validator(mode="after")
    def _require_token(self) -> "Http":
        if self.token_file is None and not is_loopback(self.host):
            raise ValueError(
                f"other machines reach {self.listen}: set http.token_file, or listen on 127.0.0.1"
            )
        return self

    @property
    def host(self) -> str:
        """Listen address without its port."""
        return split_address(self.listen)[0]

    @property
    def url(self) -> str:
        """Base URL of the API for programs on this machine."""
        host, port = split_address(self.listen)
        address = ip(host)
        if address and address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class WebhookSettings(_Section):
    """An HTTP endpoint that receives finished jobs."""

    url: Annotated[WebhookUrl, Field(pattern=r"^https?://[^\s/]+\S*$", max_length=1000)]
    events: tuple[Literal["done", "failed", "cancelled"], ...] = ("done", "failed")
    """States that are reported."""
    secret_file: ConfigPath | None = None
    """File with the secret that signs the messages."""


class Log(_Section):
    """Log level and format."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    """"auto": console on a terminal, fields in the systemd journal, JSON elsewhere."""


class Settings(BaseSettings):
    """All settings; `loader.load` makes every path absolute."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    state: ConfigPath = Path(".i2vd")
    """Folder of the queue, the lock and the caches; on a local disk."""
    scan_interval: PositiveSeconds = 2.0
    """Seconds between two scans of each inbox; file events only shorten the wait."""
    min_free: ByteSize = ByteSize(500_000_000)
    """Low-water mark in bytes, for the state folder and each inbox's folders."""
    stop_grace: Seconds = 90.0
    """Seconds that a running attempt may take to finish after the first SIGTERM."""
    host: str = Field(default_factory=local_host_name, pattern=HOST)
    """Name of this machine among those that share a queue."""
    watch: tuple[str, ...] | None = None
    """Names of the inboxes to watch; jobs of the others are generated too. None: all."""
    inbox: tuple[Inbox, ...] = (Inbox(),)
    queue: Queue = Queue()
    model: Model = Model()
    quality: QualityLimits = QualityLimits()
    http: Http = Http()
    webhook: tuple[WebhookSettings, ...] = ()
    log: Log = Log()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Give variables precedence over the file; there is no .env file or secrets folder."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _check_across_keys(self) -> "Settings":
        if not self.inbox:
            raise ValueError("there is no [[inbox]]")
        if len({webhook.url for webhook in self.webhook}) < len(self.webhook):
            raise ValueError("two webhooks have the same url; one with both in `events` is enough")
        names = [inbox.name for inbox in self.inbox]
        if len(set(names)) < len(names):
            raise ValueError("two inboxes have the same name; give each [[inbox]] its own")
        for name in self.watch or ():
            if name not in names:
                raise ValueError(
                    f"watch: there is no [[inbox]] {name!r}; known: {', '.join(names)}"
                )
        for one in self.inbox:
            for other in self.inbox:
                if one is not other and (one.path == other.path or one.path in other.path.parents):
                    raise ValueError(f"inbox {other.name!r} lies inside inbox {one.name!r}")
            for role in ("outbox", "archive", "failed", "rules"):
                folder = getattr(one, role)
                if folder == one.path or one.path in folder.parents:
                    raise ValueError(f"inbox {one.name!r}: its {role} lies inside the inbox itself")
        return self

    @property
    def queue_file(self) -> Path | None:
        """SQLite file of the queue; None if it is in PostgreSQL."""
        if self.queue.url is None:
            return self.state / "queue.sqlite"
        url = self.queue_url
        if url.get_backend_name() != "sqlite" or not url.database:
            return None
        return Path(url.database)

    @property
    def queue_url(self) -> "URL":
        """SQLAlchemy URL of the queue."""
        from sqlalchemy import URL, make_url  # takes a while, and few commands need it

        if self.queue.url is not None:
            return make_url(self.queue.url)
        return URL.create("sqlite", database=str(self.queue_file))

    @property
    def caches(self) -> dict[str, str]:
        """Environment variables for the workers' kernel cache; empty if already set."""
        name = "TRITON_CACHE_DIR"
        return {} if name in os.environ else {name: str(self.state / "compiled")}

    @property
    def watched(self) -> list[Inbox]:
        """Inboxes that this host watches."""
        return [each for each in self.inbox if self.watch is None or each.name in self.watch]

    def inbox_named(self, name: str) -> Inbox | None:
        """Return the inbox of that name, or None if the settings no longer have it."""
        return next((inbox for inbox in self.inbox if inbox.name == name), None)
