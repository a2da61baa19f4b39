"""The values that flow through the pipeline. Frozen, typed, and free of behaviour that needs I/O.

``source`` makes facts (`Upsert`, `Delete`, ...) of decoded objects (`Service`, `EndpointSlice`), ``plan`` makes
`PoolSpec` and `Frontend` of them, ``diff`` makes steps, ``observe`` reads counters, and ``health`` makes `Verdict`.
``gc=False``: these structs never form cycles, and 100,000 endpoints should not slow the collector down.
"""

from spliceway.model.facts import (
    Delete,
    Fact,
    Gone,
    Keep,
    ListEnd,
    ListStart,
    Problem,
    Problems,
    SourceStatistics,
    Synced,
    Upsert,
)
from spliceway.model.frontends import (
    ANY_CLIENT,
    NO_CLIENT,
    ClientClass,
    ExternalRoute,
    Frontend,
    FrontendKey,
    FrontendKind,
    FrontendState,
    FrontendVerdict,
)
from spliceway.model.health import Evidence, HealthCheck, Target, Verdict
from spliceway.model.names import Address, Kind, ObjectKey, Protocol
from spliceway.model.objects import (
    EndpointSlice,
    KubernetesObject,
    Node,
    Service,
    ServicePortSpec,
    SliceEndpoint,
    SlicePort,
    kind_of,
)
from spliceway.model.plans import EndpointStates, HealthNodePort, ServicePlan
from spliceway.model.pools import Affinity, Backend, Balance, PoolSpec, RetryPolicy

__all__ = [
    "ANY_CLIENT",
    "NO_CLIENT",
    "Address",
    "Affinity",
    "Backend",
    "Balance",
    "ClientClass",
    "Delete",
    "EndpointSlice",
    "EndpointStates",
    "Evidence",
    "ExternalRoute",
    "Fact",
    "Frontend",
    "FrontendKey",
    "FrontendKind",
    "FrontendState",
    "FrontendVerdict",
    "Gone",
    "HealthCheck",
    "HealthNodePort",
    "Keep",
    "Kind",
    "KubernetesObject",
    "ListEnd",
    "ListStart",
    "Node",
    "ObjectKey",
    "PoolSpec",
    "Problem",
    "Problems",
    "Protocol",
    "RetryPolicy",
    "Service",
    "ServicePlan",
    "ServicePortSpec",
    "SliceEndpoint",
    "SlicePort",
    "SourceStatistics",
    "Synced",
    "Target",
    "Upsert",
    "Verdict",
    "kind_of",
]
