"""The rise/fall state machine of every target. Pure: no I/O, no clock, no Trio.

Only targets that are not plainly healthy take memory, so 100,000 healthy backends cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from spliceway.model import Evidence, HealthCheck, Target, Verdict


class _Record:
    """What is known of a target that failed lately."""

    __slots__ = ("healthy", "reason", "run")

    def __init__(self) -> None:
        self.healthy = True
        #: failures in a row while healthy, successes in a row while unhealthy
        self.run = 0
        self.reason = ""


class HealthStates:
    """Folds evidence into verdicts.

    A healthy target becomes unhealthy after ``fall`` failures in a row, an unhealthy one healthy after ``rise``
    successes in a row. Probes and traffic count alike; one success ends a run of failures, and the other way round.
    """

    def __init__(self) -> None:
        self._records: dict[Target, _Record] = {}

    def observe(self, evidence: Evidence, check: HealthCheck) -> Verdict | None:
        """Fold one observation; return the verdict when it changed the opinion.

        ``evidence.count`` is the length of the run that the observer has seen (the engine counts its own failures in a
        row). It is not added to the run known here, because events of one run overlap: 1, 2, 3.
        """
        record = self._records.get(evidence.target)
        if record is None:
            if evidence.ok:
                return None
            record = self._records[evidence.target] = _Record()
        if evidence.ok == record.healthy:
            self._confirm(record, evidence)
            return None
        record.run = max(record.run + 1, evidence.count)
        if not evidence.ok:
            record.reason = evidence.reason
        if record.run < (check.fall if record.healthy else check.rise):
            return None
        if evidence.ok:
            del self._records[evidence.target]
        else:
            record.healthy = False
            record.run = 0
        return Verdict(evidence.target, evidence.ok, evidence.reason)

    def _confirm(self, record: _Record, evidence: Evidence) -> None:
        if record.healthy:
            del self._records[evidence.target]
        else:
            record.run = 0
            record.reason = evidence.reason

    def forget(self, target: Target) -> bool:
        """Drop what is known of ``target``; tell whether it was unhealthy."""
        record = self._records.pop(target, None)
        return record is not None and not record.healthy

    def is_suspect(self, target: Target) -> bool:
        """Whether ``target`` failed and has not yet proved to work again."""
        return target in self._records

    def is_unhealthy(self, target: Target) -> bool:
        """Whether the present verdict on ``target`` is unhealthy."""
        record = self._records.get(target)
        return record is not None and not record.healthy

    def unhealthy(self) -> Iterator[Verdict]:
        """The present verdict of every unhealthy target, with the reason of its last failure."""
        for target, record in self._records.items():
            if not record.healthy:
                yield Verdict(target, False, record.reason)

    def __len__(self) -> int:
        return len(self._records)
