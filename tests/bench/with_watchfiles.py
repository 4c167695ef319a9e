"""A minimal watcher with watchfiles: prints the path of each new file below a folder."""

import sys

from watchfiles import Change, watch

for changes in watch(sys.argv[1]):
    for change, path in changes:
        if change is Change.added:
            print(path, flush=True)
