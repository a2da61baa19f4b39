"""Options of ``spliceway run`` that matter for a node of a cluster, under kube-proxy's names where it has them."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from spliceway.cli.grouped import grouped, switch
from spliceway.cli.params import OFF, AddressParam, ListParam, SecondsParam
from spliceway.model import Address
from spliceway.settings import (
    AdminSettings,
    CaptureMode,
    CaptureSettings,
    DetectLocal,
    EngineSettings,
    NodeSettings,
    Settings,
)

_Function = TypeVar("_Function", bound=Callable[..., Any])

_SETTINGS = Settings()
_CAPTURE = _SETTINGS.capture
_NODE = _SETTINGS.node
_ENGINE = _SETTINGS.engine
_DAY = 86_400.0
_WEEKS = 30 * _DAY
_TPROXY_HEALTHZ = Address("0.0.0.0", 10256)
#: what may stand beside CIDRs in --nodeport-addresses (D-06)
_KEYWORDS = ("primary", "localhost", "all")
#: the detector's modes that need the name of an interface, and the flag that has it
_INTERFACE_FLAGS = {
    DetectLocal.BRIDGE_INTERFACE: "pod_bridge_interface",
    DetectLocal.INTERFACE_NAME_PREFIX: "pod_interface_name_prefix",
}
#: what may name an interface: nft has room for 15 letters, and a prefix takes one more for its asterisk
_INTERFACES = {
    DetectLocal.BRIDGE_INTERFACE: re.compile(r"[^\s/:*\"\\]{1,15}"),
    DetectLocal.INTERFACE_NAME_PREFIX: re.compile(r"[^\s/:*\"\\]{1,14}"),
}

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
        f"{_TPROXY_HEALTHZ}, for load balancers]",
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


def capture_settings(options: Mapping[str, Any]) -> CaptureSettings:
    """The settings of capture; what the options contradict each other in is a usage error (P-09)."""
    mode = DetectLocal(options["detect_local_mode"])
    return CaptureSettings(
        mode=CaptureMode(options["capture"]),
        detect_local=mode,
        cluster_cidrs=_cluster_cidrs(options["cluster_cidr"] or ()),
        local_interface=_local_interface(mode, options),
        masquerade_all=options["masquerade_all"],
        node_port_addresses=_node_port_addresses(options["nodeport_addresses"] or ()),
        localhost_node_ports=options["localhost_nodeports"],
        external_ips=options["external_ips"],
        mark_bit=options["mark_bit"],
    )


def engine_settings(options: Mapping[str, Any]) -> EngineSettings:
    """The settings of the engine; with packet rules, its upstream sockets carry the mark that the rules let pass."""
    return EngineSettings(
        workers=options["workers"],
        max_flows=options["max_flows"],
        max_sessions=options["max_sessions"],
        udp_timeout=options["udp_timeout"],
        udp_stream_timeout=options["udp_stream_timeout"],
        max_affinities=options["max_affinities"],
        mark=1 << (options["mark_bit"] + 1) if options["capture"] == CaptureMode.TPROXY else 0,
    )


def node_settings(options: Mapping[str, Any], *, from_api: bool) -> NodeSettings:
    """The settings of the node agent. ``from_api``: Services do not come from manifests."""
    name = _node_name(options, from_api=from_api)
    if options["detect_local_mode"] == DetectLocal.NODE_CIDR and name is None:
        raise click.UsageError("--detect-local-mode NodeCIDR needs the name of the Node: add --hostname-override.")
    return NodeSettings(
        name=name,
        proxy_name=options["service_proxy_name"],
        conntrack_max_per_core=options["conntrack_max_per_core"],
        conntrack_min=options["conntrack_min"],
        conntrack_tcp_established=options["conntrack_tcp_timeout_established"],
        conntrack_tcp_close_wait=options["conntrack_tcp_timeout_close_wait"],
        events=not options["no_events"],
    )


def admin_settings(options: Mapping[str, Any]) -> AdminSettings:
    """The settings of the admin side."""
    healthz = options["healthz_bind_address"]
    if healthz is None:
        healthz = _TPROXY_HEALTHZ if options["capture"] == CaptureMode.TPROXY else _SETTINGS.admin.healthz
    metrics = options["metrics_bind_address"]
    return AdminSettings(
        healthz=None if healthz is OFF else healthz,
        metrics=None if metrics is OFF else metrics,
        hard_fail=options["bind_address_hard_fail"],
        socket=options["state_socket"],
    )


def _node_name(options: Mapping[str, Any], *, from_api: bool) -> str | None:
    """An agent that neither is told a name nor captures like a node's proxy has no Node (E-07)."""
    override: str | None = options["hostname_override"]
    if override is not None:
        if not override.strip():
            raise click.BadParameter("it is empty.", param_hint="'--hostname-override'")
        return override.strip().lower()
    if not from_api:
        return None
    told = os.environ.get("NODE_NAME", "").strip().lower()
    if told or options["capture"] == CaptureMode.BIND:
        return told or None
    return socket.gethostname().strip().lower()


def _cluster_cidrs(texts: tuple[str, ...]) -> tuple[str, ...]:
    networks = [_network(text, "--cluster-cidr") for text in texts]
    if len({network.version for network in networks}) < len(networks):
        raise click.BadParameter("give one CIDR, or one of each family.", param_hint="'--cluster-cidr'")
    return tuple(str(network) for network in networks)


def _node_port_addresses(texts: tuple[str, ...]) -> tuple[str, ...]:
    found = tuple(text if text in _KEYWORDS else str(_network(text, "--nodeport-addresses")) for text in texts)
    for word in _KEYWORDS:
        if found.count(word) > 1:
            raise click.BadParameter(f"it says {word!r} twice.", param_hint="'--nodeport-addresses'")
    return found


def _network(text: str, flag: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        words = f" or one of {', '.join(_KEYWORDS)}" if flag == "--nodeport-addresses" else ""
        raise click.BadParameter(f"{text!r} is not a CIDR{words}.", param_hint=f"'{flag}'") from None


def _local_interface(mode: DetectLocal, options: Mapping[str, Any]) -> str:
    for other, name in _INTERFACE_FLAGS.items():
        flag = f"--{name.replace('_', '-')}"
        if other is mode and not options[name]:
            raise click.UsageError(f"--detect-local-mode {mode.value} needs {flag}.")
        if other is not mode and options[name]:
            raise click.UsageError(f"{flag} is for --detect-local-mode {other.value}.")
        if options[name] and not _INTERFACES[other].fullmatch(options[name]):
            raise click.BadParameter(f"{options[name]!r} cannot name an interface.", param_hint=f"'{flag}'")
    return options[_INTERFACE_FLAGS[mode]] if mode in _INTERFACE_FLAGS else ""
