"""Entry point of the image child: `python -m pipeline.image`."""

import sys

from pipeline.image.server import main

if __name__ == "__main__":
    sys.exit(main())
