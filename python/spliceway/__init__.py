"""spliceway: a userspace load balancer that balances, retries another backend, and splices.

Nothing starts at import, and what a name needs is imported when the name is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spliceway._engine import __version__ as __version__
    from spliceway.errors import (
        EngineClosedError,
        EngineError,
        EngineForkedError,
        FrontendError,
        ManifestError,
        SettingsError,
        SourceError,
        SplicewayError,
    )
    from spliceway.gateway import LoadBalancer
    from spliceway.model import Address, Backend, Balance, HealthCheck, Problem, RetryPolicy
    from spliceway.served import ServedPool, ServedService
    from spliceway.sync import Engine, EngineService

__all__ = [
    "Address",
    "Backend",
    "Balance",
    "Engine",
    "EngineClosedError",
    "EngineError",
    "EngineForkedError",
    "EngineService",
    "FrontendError",
    "HealthCheck",
    "LoadBalancer",
    "ManifestError",
    "Problem",
    "RetryPolicy",
    "ServedPool",
    "ServedService",
    "SettingsError",
    "SourceError",
    "SplicewayError",
]

_HOMES = {
    "spliceway._engine": ("__version__",),
    "spliceway.gateway": ("LoadBalancer",),
    "spliceway.model": ("Address", "Backend", "Balance", "HealthCheck", "Problem", "RetryPolicy"),
    "spliceway.served": ("ServedPool", "ServedService"),
    "spliceway.sync": ("Engine", "EngineService"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name != "__version__" and name not in __all__:
        raise AttributeError(f"module 'spliceway' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF.get(name, "spliceway.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
