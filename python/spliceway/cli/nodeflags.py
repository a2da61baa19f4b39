"""Options of ``spliceway run`` that matter for a node of a cluster, under kube-proxy's names where it has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from spliceway.cli.grouped import grouped, switch
from spliceway.cli.params import AddressParam, ListParam, SecondsParam
from spliceway.model import Address
from spliceway.settings import CaptureMode, DetectLocal, Settings

_Function = TypeVar("_Function", bound=Callable[..., Any])

_SETTINGS = Settings()
_CAPTURE = _SETTINGS.capture
_NODE = _SETTINGS.node
_ENGINE = _SETTINGS.engine
_DAY = 86_400.0
_WEEKS = 30 * _DAY
#: where the node's proxy answers load balancers' probes
TPROXY_HEALTHZ = Address("0.0.0.0", 10256)

_NODE_GROUP = "As the service proxy of a node (--capture tproxy)"
LIMITS = "Limits and ends"
#: the admin side, and the log
LOOKING = "Looking at it"
_KERNEL_GROUP = "Kernel settings of connection tracking (--capture tproxy)"


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    grouped(
        _NODE_GROUP,
        "--capture",
        type=click.Choice([each.value for each in CaptureMode]),
        default=_CAPTURE.mode.value,
        help="bind: open each ClusterIP as an ordinary socket; tproxy: capture every kind of Service address with "
        "packet rules (needs root or CAP_NET_ADMIN, and nft).",
    ),
    grouped(
        _NODE_GROUP,
        "--hostname-override",
        metavar="NAME",
        help="Name of the Node.  [default with the API and tproxy: $NODE_NAME, or else the hostname]",
    ),
    grouped(
        _NODE_GROUP,
        "--cluster-cidr",
        type=ListParam(),
        metavar="CIDR[,CIDR]",
        help="Where Pods have their addresses: one CIDR, or one of each family.",
    ),
    grouped(
        _NODE_GROUP,
        "--detect-local-mode",
        type=click.Choice([each.value for each in DetectLocal]),
        default=_CAPTURE.detect_local.value,
        help="How packets of Pods are told from others.",
    ),
    grouped(_NODE_GROUP, "--pod-bridge-interface", metavar="NAME", help="For --detect-local-mode BridgeInterface."),
    grouped(
        _NODE_GROUP,
        "--pod-interface-name-prefix",
        metavar="PREFIX",
        help="For --detect-local-mode InterfaceNamePrefix.",
    ),
    switch(_NODE_GROUP, "--masquerade-all", help="Backends see the node's address instead of the client's, always."),
    grouped(
        _NODE_GROUP,
        "--nodeport-addresses",
        type=ListParam(),
        metavar="CIDR|primary|localhost|all,...",
        help="Addresses of the node that answer NodePorts.  [default: all]",
    ),
    switch(_NODE_GROUP, "--localhost-nodeports", help="NodePorts answer on loopback addresses as well."),
    grouped(
        _NODE_GROUP,
        "--external-ips/--no-external-ips",
        default=_CAPTURE.external_ips,
        help="Serve spec.externalIPs of Services.",
    ),
    grouped(
        _NODE_GROUP,
        "--service-proxy-name",
        metavar="NAME",
        help="Serve only Services whose label service.kubernetes.io/service-proxy-name has this value.  "
        "[default: only those without it]",
    ),
    grouped(_NODE_GROUP, "--master", metavar="URL", help="The API server, whatever the kubeconfig says."),
    grouped(_NODE_GROUP, "--no-events", is_flag=True, help="Write no Kubernetes Events."),
    grouped(_NODE_GROUP, "--init-only", is_flag=True, help="Make the kernel settings below and exit."),
    grouped(
        _NODE_GROUP,
        "--mark-bit",
        type=click.IntRange(0, 30),
        default=_CAPTURE.mark_bit,
        help="This bit of packet marks and the next one are ours.",
    ),
    switch(
        _NODE_GROUP,
        "--untracked-clients",
        help="Keep clients' TCP connections out of connection tracking; read docs/capture.md on firewalls and network "
        "policies first.",
    ),
    grouped(
        LIMITS,
        "--udp-timeout",
        type=SecondsParam(0.001, _DAY),
        default=_ENGINE.udp_timeout,
        help="Seconds until an idle UDP session without a reply ends.",
    ),
    grouped(
        LIMITS,
        "--udp-stream-timeout",
        type=SecondsParam(0.001, _DAY),
        default=_ENGINE.udp_stream_timeout,
        help="Seconds until an idle UDP session with replies ends.",
    ),
    grouped(
        LIMITS,
        "--max-sessions",
        type=click.IntRange(1, 100_000_000),
        default=_ENGINE.max_sessions,
        help="UDP sessions at once; beyond it the one that was idle longest ends.",
    ),
    grouped(
        LIMITS,
        "--max-affinities",
        type=click.IntRange(1, 100_000_000),
        default=_ENGINE.max_affinities,
        help="Clients that session affinity remembers; beyond it the one that was idle longest is forgotten.",
    ),
    grouped(
        _KERNEL_GROUP,
        "--conntrack-max-per-core",
        type=click.IntRange(0, 100_000_000),
        default=_NODE.conntrack_max_per_core,
        help="nf_conntrack_max for each CPU; only ever raised; 0 leaves it alone.",
    ),
    grouped(
        _KERNEL_GROUP,
        "--conntrack-min",
        type=click.IntRange(0, 100_000_000),
        default=_NODE.conntrack_min,
        help="nf_conntrack_max at least.",
    ),
    grouped(
        _KERNEL_GROUP,
        "--conntrack-tcp-timeout-established",
        type=SecondsParam(0.0, _WEEKS),
        default=_NODE.conntrack_tcp_established,
        help="Seconds; 0 leaves it alone.",
    ),
    grouped(
        _KERNEL_GROUP,
        "--conntrack-tcp-timeout-close-wait",
        type=SecondsParam(0.0, _WEEKS),
        default=_NODE.conntrack_tcp_close_wait,
        help="Seconds; 0 leaves it alone.",
    ),
    grouped(
        LOOKING,
        "--healthz-bind-address",
        type=AddressParam(off=True),
        metavar="ADDR:PORT|off",
        help=f"Address of /healthz, /livez and /readyz.  [default: {_SETTINGS.admin.healthz}; with tproxy "
        f"{TPROXY_HEALTHZ}, for load balancers]",
    ),
    grouped(
        LOOKING,
        "--metrics-bind-address",
        type=AddressParam(off=True),
        default=str(_SETTINGS.admin.metrics),
        metavar="ADDR:PORT|off",
        help="Address of /metrics, /proxyMode and /configz.",
    ),
    switch(LOOKING, "--bind-address-hard-fail", help="Exit when one of the two cannot be opened."),
)


def node_options(command: _Function) -> _Function:
    """Give ``command`` all options of this module."""
    for decorate in reversed(_OPTIONS):
        command = decorate(command)
    return command
