"""Every metric name, once, with its help text and labels, so that emitter, docs, alerts and dashboards cannot drift.

Families of kind ``counter`` get the suffix ``_total`` in the exposition. Those under ``kubeproxy_`` mean what they mean
in kube-proxy, as far as their help text does not say otherwise.
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
SOURCE_NOT_KEPT = Metric(
    "spliceway_source_not_kept",
    "Flows whose backend could not see the client's address: its answers to it bypass this node.",
    _POOL,
)
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
LIMIT_HITS = Metric(
    "spliceway_limit_hits",
    "How often a bound bit: flows, fds, pipes, events, sessions, affinities, bypasses.",
    ("limit",),
)
ACCEPT_ERRORS = Metric("spliceway_accept_errors", "Errors of accept(2) other than the limits.")
PANICS = Metric("spliceway_worker_panics", "Workers that failed and were restarted.")
SESSIONS = Metric("spliceway_udp_sessions", "UDP sessions that are open.")
SESSIONS_MOVED = Metric("spliceway_udp_sessions_moved", "UDP sessions ended because their backend left its pool.")
DATAGRAMS_DROPPED = Metric(
    "spliceway_datagrams_dropped", "Datagrams not relayed: no route, no backend, no memory, refused by the kernel."
)
TRAINS_REFUSED = Metric(
    "spliceway_trains_refused", "Trains of equal datagrams that the kernel refused; they left one by one."
)
AFFINITIES = Metric("spliceway_affinities", "Clients that session affinity remembers.")
BYPASSES = Metric(
    "spliceway_bypasses",
    "Pairs of client and backend whose answers take a way past this node; they are served from its address.",
)
UNROUTED = Metric("spliceway_unrouted_connections", "Captured connections for which there was no route.")

# --- the packet rules, with --capture tproxy -------------------------------------------------------------------------

CAPTURE_ELEMENTS = Metric("spliceway_capture_elements", "Frontends that the packet rules hold.")
CAPTURE_CHANGES = Metric("spliceway_capture_changes", "Changes of the packet rules.")
CAPTURE_FAILURES = Metric("spliceway_capture_failures", "Changes of the packet rules that the kernel or nft refused.")
CAPTURE_RESTORED = Metric("spliceway_capture_restored", "How often packet rules that somebody else removed came back.")
CAPTURE_SECONDS = Metric("spliceway_capture_last_change_seconds", "How long the last change of the packet rules took.")

# --- the control plane -----------------------------------------------------------------------------------------------

READY = Metric("spliceway_ready", "1 when the first complete state was applied and shutdown has not begun.")
FRONTENDS = Metric("spliceway_frontends", "Frontends by state: serving, rejecting, dropping, failed.", ("state",))
PROBLEMS = Metric("spliceway_problems", "Present problems: error, warning.", ("severity",))
SOURCE_SYNCED = Metric("spliceway_source_synced", "1 when the source has said everything once.", ("source",))
SOURCE_STALENESS = Metric("spliceway_source_staleness_seconds", "Time since the source was last heard of.", ("source",))
SOURCE_ERRORS = Metric("spliceway_source_errors", "Errors of the source.", ("source",))
SOURCE_RESTARTS = Metric("spliceway_source_restarts", "Streams of the source that were opened again.", ("source",))
ADMIN_DROPPED = Metric("spliceway_admin_dropped_connections", "Admin connections closed because too many were open.")
UNSERVED = Metric("spliceway_unserved_ports", "Service ports that are not served, by protocol: SCTP.", ("protocol",))
HEALTH_PORTS = Metric(
    "spliceway_health_check_listeners", "Listeners of healthCheckNodePorts, by state: open, failed.", ("state",)
)
EVENTS_WRITTEN = Metric("spliceway_events_written", "Kubernetes Events that the API has taken.")
EVENTS_DROPPED = Metric("spliceway_events_dropped", "Kubernetes Events given up: queue full, refused, unreachable.")
BUILD_INFO = Metric("spliceway_build_info", "Always 1; the labels tell the build.", ("version", "python"))

# --- under kube-proxy's names ----------------------------------------------------------------------------------------

_FAMILY = ("ip_family",)

KUBE_SYNC = Metric("kubeproxy_sync_proxy_rules_duration_seconds", "How long turns took.", _FAMILY)
KUBE_SYNC_FULL = Metric(
    "kubeproxy_sync_full_proxy_rules_duration_seconds", "How long turns took that brought everything.", _FAMILY
)
KUBE_SYNC_PARTIAL = Metric(
    "kubeproxy_sync_partial_proxy_rules_duration_seconds", "How long turns took that brought what had changed.", _FAMILY
)
KUBE_PROGRAMMING = Metric(
    "kubeproxy_network_programming_duration_seconds",
    "Time from a change's last-change-trigger-time until it was in force.",
    _FAMILY,
)
KUBE_SYNC_LAST = Metric(
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds", "When the last turn ended, in Unix time.", _FAMILY
)
KUBE_SYNC_QUEUED = Metric(
    "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "When a turn was last asked for, in Unix time.", _FAMILY
)
KUBE_SLICES_PENDING = Metric(
    "kubeproxy_sync_proxy_rules_endpoint_changes_pending", "Changes of EndpointSlices that wait for a turn."
)
KUBE_SLICES = Metric("kubeproxy_sync_proxy_rules_endpoint_changes", "Changes of EndpointSlices.")
KUBE_SERVICES_PENDING = Metric(
    "kubeproxy_sync_proxy_rules_service_changes_pending", "Changes of Services that wait for a turn."
)
KUBE_SERVICES = Metric("kubeproxy_sync_proxy_rules_service_changes", "Changes of Services.")
#: a gauge in spite of its name, as in kube-proxy
KUBE_NO_LOCAL = Metric(
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
    "Service ports with traffic policy Local, endpoints elsewhere, and none on this node. Both families together.",
    ("traffic_policy",),
)
KUBE_HEALTHZ = Metric("kubeproxy_proxy_healthz", "Answers of /healthz.", ("code",))
KUBE_LIVEZ = Metric("kubeproxy_proxy_livez", "Answers of /livez.", ("code",))
KUBE_CONNTRACK_DELETED = Metric(
    "kubeproxy_conntrack_reconciler_deleted_entries",
    "UDP sessions (here not the kernel's) ended because their backend left. Both families together.",
)
KUBE_NFT_FAILURES = Metric(
    "kubeproxy_sync_proxy_rules_nftables_sync_failures", "Changes of the packet rules that failed. Both families."
)
KUBE_BUILD = Metric(
    "kubernetes_build_info", "Always 1; the labels tell the build.", ("major", "minor", "git_version", "platform")
)
