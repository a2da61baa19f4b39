"""The settings that the options of `spliceway.cli.nodeflags` mean; contradictions are usage errors."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import socket
from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource

from spliceway.cli.nodeflags import TPROXY_HEALTHZ
from spliceway.cli.params import OFF
from spliceway.settings import (
    AdminSettings,
    CaptureMode,
    CaptureSettings,
    DetectLocal,
    EngineSettings,
    NodeSettings,
    Settings,
)

_SETTINGS = Settings()
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

#: what ordinary sockets have no use for
_TPROXY_ONLY = (
    "cluster_cidr",
    "detect_local_mode",
    "pod_bridge_interface",
    "pod_interface_name_prefix",
    "masquerade_all",
    "nodeport_addresses",
    "localhost_nodeports",
    "external_ips",
    "mark_bit",
    "untracked_clients",
    "conntrack_max_per_core",
    "conntrack_min",
    "conntrack_tcp_timeout_established",
    "conntrack_tcp_timeout_close_wait",
)

log = logging.getLogger(__name__)


def warn_of_idle_options(context: click.Context) -> None:
    """Log a warning of options that were given and do nothing, as they are for ``--capture tproxy``."""
    if context.params["capture"] == CaptureMode.TPROXY:
        return
    idle = [
        each.opts[0]
        for each in context.command.params
        if each.name in _TPROXY_ONLY and context.get_parameter_source(each.name) is not ParameterSource.DEFAULT
    ]
    if idle:
        verb = "does" if len(idle) == 1 else "do"
        log.warning("%s %s nothing without --capture tproxy", ", ".join(idle), verb)


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
        untracked_clients=options["untracked_clients"],
    )


def engine_settings(options: Mapping[str, Any]) -> EngineSettings:
    """The settings of the engine; with packet rules, its upstream sockets carry the mark that the rules let pass."""
    return EngineSettings(
        workers=options["workers"],
        max_flows=options["max_flows"],
        max_pipes=options["max_pipes"],
        max_sessions=options["max_sessions"],
        udp_timeout=options["udp_timeout"],
        udp_stream_timeout=options["udp_stream_timeout"],
        max_affinities=options["max_affinities"],
        mark=_upstream_mark(options["mark_bit"]) if options["capture"] == CaptureMode.TPROXY else 0,
    )


def _upstream_mark(bit: int) -> int:
    from spliceway.capture.tproxy.layout import Marks  # not for who binds: it brings all of capture with it

    return Marks.of_bit(bit).upstream


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
        healthz = TPROXY_HEALTHZ if options["capture"] == CaptureMode.TPROXY else _SETTINGS.admin.healthz
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
