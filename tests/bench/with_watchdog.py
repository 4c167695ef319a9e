"""A minimal watcher with watchdog: prints the path of each new file below a folder."""

import sys
import time

from watchdog.events import DirCreatedEvent, FileCreatedEvent, FileSystemEventHandler
from watchdog.observers import Observer


class Printer(FileSystemEventHandler):
    def on_created(self, event: DirCreatedEvent | FileCreatedEvent) -> None:
        print(event.src_path, flush=True)


observer = Observer()
observer.schedule(Printer(), sys.argv[1], recursive=True)
observer.start()
while True:
    time.sleep(1)
