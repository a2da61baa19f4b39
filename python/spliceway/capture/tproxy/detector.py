"""How Pods are told from other clients (M-01): in the rules by `Detector`, and here for a bare address."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable

from spliceway.capture.tproxy.elements import Element, collapse
from spliceway.capture.tproxy.layout import Detector
from spliceway.model import ClientClass, Node
from spliceway.settings import CaptureSettings, DetectLocal


def detector_of(settings: CaptureSettings) -> Detector:
    """What the rules look at."""
    match settings.detect_local:
        case DetectLocal.BRIDGE_INTERFACE:
            return Detector(settings.local_interface)
        case DetectLocal.INTERFACE_NAME_PREFIX:
            return Detector(settings.local_interface, prefix=True)
        case DetectLocal.CLUSTER_CIDR | DetectLocal.NODE_CIDR:
            return Detector()


def pod_cidrs(settings: CaptureSettings, node: Node | None) -> tuple[str, ...]:
    """The CIDRs of Pods: the first of each family (M-01). Empty in the interface modes."""
    match settings.detect_local:
        case DetectLocal.CLUSTER_CIDR:
            cidrs = settings.cluster_cidrs
        case DetectLocal.NODE_CIDR:
            cidrs = node.pod_cidrs if node else ()
        case DetectLocal.BRIDGE_INTERFACE | DetectLocal.INTERFACE_NAME_PREFIX:
            cidrs = ()
    first: dict[int, str] = {}
    for cidr in cidrs:
        first.setdefault(ipaddress.ip_network(cidr, strict=False).version, cidr)
    return tuple(first.values())


def pod_elements(cidrs: Iterable[str]) -> tuple[Element, ...]:
    """The elements of the sets of Pod CIDRs."""
    cidrs = tuple(cidrs)
    return tuple(Element(f"pods{version}", cidr) for version in (4, 6) for cidr in collapse(cidrs, version))


def classify(
    host: str,
    cidrs: Iterable[str],
    detector: Detector,
    is_local: Callable[[str], bool],
    interface_of: Callable[[str], str],
) -> ClientClass:
    """The class of a client, in the order of the rules.

    By interface, a client is taken for a Pod when packets to it would leave by that interface.
    """
    address = ipaddress.ip_address(host)
    if any(address in ipaddress.ip_network(cidr, strict=False) for cidr in cidrs):
        return ClientClass.POD
    if address.is_loopback or is_local(host):
        return ClientClass.NODE
    if detector.interface:
        name = interface_of(host)
        if name.startswith(detector.interface) if detector.prefix else name == detector.interface:
            return ClientClass.POD
    return ClientClass.EXT
