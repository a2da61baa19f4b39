"""Every metric name, once, with its help text and labels, so that emitter, docs, alerts and dashboards cannot drift.

None of them means exactly what one of kube-proxy's metrics means, so none has a kube-proxy name. Families of kind
``counter`` get the suffix ``_total`` in the exposition.
"""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """A metric family. Times in seconds, sizes in bytes."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


_POOL = ("namespace", "service", "port")
_BACKEND = (*_POOL, "backend")

# --- per service port, only those that have had a flow ---------------------------------------------------------------

FLOWS = Metric("spliceway_flows", "Flows accepted.", _POOL)
ACTIVE = Metric("spliceway_active_flows", "Flows that are open.", _POOL)
BYTES = Metric("spliceway_bytes", "Payload bytes relayed; direction in: client to backend.", (*_POOL, "direction"))
TRIES = Metric("spliceway_tries", "Connection attempts to backends.", _POOL)
RETRIES = Metric("spliceway_retries", "Connection attempts after the first one of a flow.", _POOL)
SAVED = Metric("spliceway_saved_flows", "Flows that a retry served: each a client that saw no error.", _POOL)
REPLAYED = Metric("spliceway_replayed_flows", "Flows whose first bytes were sent to another backend.", _POOL)
FAILED = Metric("spliceway_failed_flows", "Flows that got no backend after all tries.", _POOL)
REFUSED = Metric("spliceway_refused_flows", "Flows refused because the pool had no backend.", _POOL)
BUDGET = Metric("spliceway_retry_budget_exhausted", "Retries not made because the retry budget was empty.", _POOL)
ENDS = Metric(
    "spliceway_flow_ends", "Flows ended, by reason: closed, client-reset, backend-reset, drained.", (*_POOL, "reason")
)
CONNECT = Metric("spliceway_connect_seconds", "Time that successful connects to backends took.", _POOL)

# --- per backend, only of service ports that have had a flow ---------------------------------------------------------

BACKEND_FLOWS = Metric("spliceway_backend_flows", "Flows relayed to the backend.", _BACKEND)
BACKEND_ACTIVE = Metric("spliceway_backend_active_flows", "Flows open to the backend.", _BACKEND)
BACKEND_BYTES = Metric(
    "spliceway_backend_bytes", "Payload bytes relayed; direction in: to the backend.", (*_BACKEND, "direction")
)
BACKEND_FAILURES = Metric("spliceway_backend_connect_failures", "Connects to the backend that failed.", _BACKEND)

# --- per service port, all of them -----------------------------------------------------------------------------------

ENDPOINTS = Metric(
    "spliceway_endpoints", "Endpoints by state: ready, terminating (still serving), unready.", (*_POOL, "state")
)
UNHEALTHY = Metric("spliceway_unhealthy_backends", "Backends that health has set aside.", _POOL)

# --- the engine ------------------------------------------------------------------------------------------------------

GENERATION = Metric("spliceway_generation", "Number of the desired state that the engine has.")
WORKERS = Metric("spliceway_workers", "Worker threads.")
LISTENERS = Metric("spliceway_listeners", "Open listeners.")
ENGINE_FLOWS = Metric("spliceway_engine_flows", "Flows that are open, of all service ports.")
PAUSED = Metric("spliceway_accept_paused", "1 while accepting is paused at the fd or flow limit.")
LIMIT_HITS = Metric("spliceway_limit_hits", "How often a bound bit: flows, fds, pipes, events.", ("limit",))
ACCEPT_ERRORS = Metric("spliceway_accept_errors", "Errors of accept(2) other than the limits.")
PANICS = Metric("spliceway_worker_panics", "Workers that failed and were restarted.")

# --- the control plane -----------------------------------------------------------------------------------------------

READY = Metric("spliceway_ready", "1 when the first complete state was applied and shutdown has not begun.")
FRONTENDS = Metric("spliceway_frontends", "Frontends by state: serving, rejecting, failed.", ("state",))
PROBLEMS = Metric("spliceway_problems", "Present problems: error, warning.", ("severity",))
SOURCE_SYNCED = Metric("spliceway_source_synced", "1 when the source has said everything once.", ("source",))
SOURCE_STALENESS = Metric("spliceway_source_staleness_seconds", "Time since the source was last heard of.", ("source",))
SOURCE_ERRORS = Metric("spliceway_source_errors", "Errors of the source.", ("source",))
SOURCE_RESTARTS = Metric("spliceway_source_restarts", "Streams of the source that were opened again.", ("source",))
ADMIN_DROPPED = Metric("spliceway_admin_dropped_connections", "Admin connections closed because too many were open.")
BUILD_INFO = Metric("spliceway_build_info", "Always 1; the labels tell the build.", ("version", "python"))
