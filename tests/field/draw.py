"""Draw a sound picture: `python -m tests.field.draw PATH [SEED]`; the format is the ending's."""

import os
import sys
from io import BytesIO
from pathlib import Path

import pillow_heif
from PIL import Image

from tests.system.studio import picture

pillow_heif.register_heif_opener()


def main() -> None:
    """Write the picture beside its path, and rename it there."""
    path = Path(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    content = picture(seed)
    if path.suffix.lower() != ".png":
        out = BytesIO()
        Image.open(BytesIO(content)).save(out, Image.registered_extensions()[path.suffix.lower()])
        content = out.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.urandom(4).hex()}.part")
    part.write_bytes(content)
    part.rename(path)


if __name__ == "__main__":
    main()
