"""Instance: the durable id of a state folder, which it keeps wherever it is moved."""

import threading
import uuid
from pathlib import Path

from daemon.fs.atomic import atomic_write
from rules.text_file import decode, read_bytes

_FILE = "instance"
_creating = threading.Lock()


def instance_id(folder: Path) -> str:
    """Return the id of a state folder; it is stored there at the first call. Raises OSError."""
    file = folder / _FILE
    with _creating:
        if not file.exists():
            atomic_write(file, f"{uuid.uuid4().hex[:12]}\n")
    return decode(read_bytes(file)).strip()
