"""What a copy came to: counted, and shown while it goes on."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from pondfs.cli.output import PROGRESS_DELAY_S, format_count, format_size
from pondfs.cli.trees import Failures

_SHOW_EVERY_S = 0.1


class Tally:
    """What was copied, and what was not.

    Attributes:
        count: files and all else that is no directory.
        bytes: their content.
        failed: what could not be read or made, and was left out.
        owners_lost: copies that have another owner.
        xattrs_lost: extended attributes that are missing.
        rights_lost: set-id bits and attributes with rights that were not taken over from a pond
            whose owner could not have given them.
    """

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self.failed: Failures = Failures()
        self.owners_lost = 0
        self.xattrs_lost = 0
        self.rights_lost = 0
        self._show: Callable[[], None] = lambda: None

    def add_file(self) -> None:
        """Count one more."""
        self.count += 1
        self._show()

    def add_bytes(self, count: int) -> None:
        """Count what one more piece has."""
        self.bytes += count
        self._show()

    @property
    def text(self) -> str:
        """What was copied: ``2 files, 1.2 MiB``."""
        return (
            f"{format_count(self.count)} file{'' if self.count == 1 else 's'}, "
            f"{format_size(self.bytes)}"
        )

    def notes(self) -> Iterator[str]:
        """Yield what the copies lack, one line each."""
        if self.owners_lost:
            yield f"{format_count(self.owners_lost)} of them had another owner: root keeps owners"
        if self.rights_lost:
            yield (
                f"{format_count(self.rights_lost)} of them had set-id bits or capabilities that "
                "the pond's owner could not have given: left out"
            )
        if self.xattrs_lost:
            yield (
                f"{format_count(self.xattrs_lost)} extended "
                f"attribute{'' if self.xattrs_lost == 1 else 's'} could not be kept: the place "
                "has none, or only root may set them"
            )

    @contextlib.contextmanager
    def showing(self) -> Iterator[None]:
        """Show on the terminal how far it is, once it takes longer than a second."""
        if not sys.stderr.isatty():
            yield
            return
        from rich.console import Console

        spinner = Console(stderr=True).status("copying")
        began = shown = time.monotonic()
        is_shown = False

        def show() -> None:
            nonlocal is_shown, shown
            now = time.monotonic()
            if now - began < PROGRESS_DELAY_S or now - shown < _SHOW_EVERY_S:
                return
            shown = now
            if not is_shown:
                spinner.start()
                is_shown = True
            rate = format_size(int(self.bytes / (now - began)))
            spinner.update(f"copying: {self.text}, {rate}/s")

        self._show = show
        try:
            yield
        finally:
            self._show = lambda: None
            spinner.stop()
