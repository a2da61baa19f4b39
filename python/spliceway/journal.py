"""Lines for the log about things of which there may be thousands."""

from __future__ import annotations

import logging

#: things that get a line each, between two calls of `Journal.write`
LOG_LINES = 10


class Journal:
    """One line for each thing that changed, but a summary of all beyond `LOG_LINES`.

    Args:
        log: where to write.
        things: what the lines are about, in the plural.
    """

    def __init__(self, log: logging.Logger, things: str) -> None:
        self._log = log
        self._things = things
        self._lines: list[str] = []
        self._more = 0

    def note(self, line: str) -> None:
        """Remember one line."""
        if len(self._lines) < LOG_LINES:
            self._lines.append(line)
        else:
            self._more += 1

    def write(self) -> None:
        """Log what was noted since the last call."""
        for line in self._lines:
            self._log.info("%s", line)
        if self._more:
            self._log.info("and %d more %s changed", self._more, self._things)
        self._lines.clear()
        self._more = 0
