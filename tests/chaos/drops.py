"""What a chaos run drops, and when all of it is at rest."""

from pathlib import Path

from tests.chaos.books import Books
from tests.system.studio import Studio, picture, visible


class Drops:
    """Pictures dropped into the inbox of a studio, and the books of them."""

    def __init__(self, studio: Studio) -> None:
        self.books = Books()
        self.count = 0
        self._studio = studio

    def drop(self, name: str) -> None:
        """The same place again only once it is free: whoever overwrites a file loses it himself."""
        self.count += 1
        place = Path(name)
        if (self._studio.inbox / place).exists():
            place = place.with_stem(f"{place.stem}{self.count}")
        content = picture(self.count) + self.count.to_bytes(4, "big")
        if place.stem.startswith("rubbish"):
            content = b"no picture" + content
        self.books.enter(content, doomed=place.stem.startswith(("rubbish", "fail", "poison")))
        self._studio.drop(str(place), content)


def at_rest(studio: Studio) -> bool:
    """Whether nothing waits or is in hand, and every picture is where it belongs."""
    try:
        states = studio.get("/api/status")["jobs"]
        newest = studio.get("/api/jobs", limit=50)
    except AssertionError:
        return False
    in_hand = states["queued"] + states["running"] + states["publishing"]
    on_the_way = [job for job in newest if job["picture_location"] == "inbox"]  # a reason to write
    in_inbox = any(p.is_file() for p in visible(studio.inbox, "*"))
    return not (in_hand or on_the_way or in_inbox)
