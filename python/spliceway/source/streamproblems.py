"""What is wrong with one stream of objects, kept so that only a change of it is told. Pure."""

from __future__ import annotations

from spliceway.model import ObjectKey, Problem, Problems


class StreamProblems:
    """The problems of objects that cannot be used, and the fault of the stream itself."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        #: why the stream does not flow
        self.fault: Problem | None = None
        self._bad: dict[ObjectKey | None, tuple[Problem, ...]] = {}
        self._told: tuple[Problem, ...] = ()

    def note(self, key: ObjectKey | None, problems: tuple[Problem, ...]) -> None:
        """These are the problems of this object now; without any it is right (again)."""
        if problems:
            self._bad[key] = problems
        else:
            self._bad.pop(key, None)

    def forget_objects(self) -> None:
        """A list begins, which tells of every object anew."""
        self._bad.clear()

    def news(self) -> Problems | None:
        """All present problems; None when they were told already."""
        if not (self._bad or self.fault or self._told):
            return None
        present = tuple(problem for problems in self._bad.values() for problem in problems)
        present = (self.fault, *present) if self.fault else present
        if present == self._told:
            return None
        self._told = present
        return Problems(self.origin, present)
