"""What a Service's annotations under ``spliceway.io/`` ask for. Pure."""

from __future__ import annotations

import msgspec

from spliceway.model import Balance, Problem, RetryPolicy, Service


class Tuning(msgspec.Struct, frozen=True):
    """How the pools of a Service behave; what an annotation does not say comes from the settings."""

    balance: Balance = Balance.MAGLEV
    retry: RetryPolicy = RetryPolicy()


def read_tuning(service: Service, default: Tuning) -> tuple[Tuning, list[Problem]]:
    """The tuning of ``service``; an unusable value is a warning, and the default is used."""
    tuning = default
    problems: list[Problem] = []

    def warn(message: str) -> None:
        problems.append(Problem(f"Service {service.key}", message, warning=True))

    for key, value in service.tuning:
        field = f"metadata.annotations[spliceway.io/{key}]"
        if key == "balance":
            if value in set(Balance):
                tuning = Tuning(Balance(value), tuning.retry)
            else:
                names = ", ".join(Balance)
                warn(f"{field}: {value!r} is not one of {names}; {default.balance} is used")
        elif key == "replay":
            if value in ("true", "false"):
                tuning = Tuning(tuning.balance, msgspec.structs.replace(tuning.retry, replay=value == "true"))
            else:
                warn(f"{field}: {value!r} is neither true nor false; {str(default.retry.replay).lower()} is used")
        else:
            warn(f"{field} is not known and has no effect; known are balance and replay")
    if service.session_affinity != "None":
        warn(f"spec.sessionAffinity: {service.session_affinity} is not kept by this version; clients are spread")
    return tuning, problems
