"""`python -m pipeline.image`: the image child."""

import sys

from pipeline.image.decode import main

if __name__ == "__main__":
    sys.exit(main())
