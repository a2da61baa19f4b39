"""Services and EndpointSlices as ``kubectl get -o json`` writes them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterable, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

#: one seed, so that every run reads the same bytes
_NAMES = uuid.UUID("5c0ffee5-0000-4000-8000-000000000000")
_CREATED = "2026-03-01T09:30:00Z"
#: a /16 of loopback that anyone can bind, and one that is not local
LOCAL = "127.64"
ELSEWHERE = "198.19"
_ZONES = ("eu-west-1a", "eu-west-1b", "eu-west-1c")

Object = dict[str, Any]


def _uid(text: str) -> str:
    return str(uuid.uuid5(_NAMES, text))


def service(
    name: str, address: str, port: int, *, namespace: str = "default", annotations: dict[str, str] | None = None
) -> Object:
    """A Service of type ClusterIP with one port named ``http``."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "annotations": {
                "meta.helm.sh/release-name": name,
                "meta.helm.sh/release-namespace": namespace,
                **(annotations or {}),
            },
            "creationTimestamp": _CREATED,
            "labels": {"app.kubernetes.io/managed-by": "Helm", "app.kubernetes.io/name": name, "team": "shop"},
            "name": name,
            "namespace": namespace,
            "resourceVersion": "1048576",
            "uid": _uid(f"service {namespace}/{name}"),
        },
        "spec": {
            "clusterIP": address,
            "clusterIPs": [address],
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "http", "port": port, "protocol": "TCP", "targetPort": "http"}],
            "selector": {"app.kubernetes.io/name": name},
            "sessionAffinity": "None",
            "type": "ClusterIP",
        },
        "status": {"loadBalancer": {}},
    }


def endpoint_slice(
    service_name: str,
    hosts: Sequence[str],
    port: int,
    *,
    namespace: str = "default",
    terminating: Collection[str] = (),
) -> Object:
    """A slice of endpoints with target references, nodes and zones, as the slice controller writes it.

    All are ready but those in ``terminating``, whose Pods still serve.
    """
    name = f"{service_name}-x7k2p"
    return {
        "addressType": "IPv4",
        "apiVersion": "discovery.k8s.io/v1",
        "endpoints": [_endpoint(name, namespace, host, terminating=host in terminating) for host in hosts],
        "kind": "EndpointSlice",
        "metadata": {
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": _CREATED},
            "creationTimestamp": _CREATED,
            "generateName": f"{service_name}-",
            "generation": 3,
            "labels": {
                "app.kubernetes.io/managed-by": "Helm",
                "app.kubernetes.io/name": service_name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": service_name,
            },
            "name": name,
            "namespace": namespace,
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "blockOwnerDeletion": True,
                    "controller": True,
                    "kind": "Service",
                    "name": service_name,
                    "uid": _uid(f"service {namespace}/{service_name}"),
                }
            ],
            "resourceVersion": "1048601",
            "uid": _uid(f"slice {namespace}/{name}"),
        },
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    }


def _endpoint(slice_name: str, namespace: str, host: str, *, terminating: bool) -> Object:
    pod = f"{slice_name}-{host.replace('.', '-')}"
    place = int(IPv4Address(host))
    return {
        "addresses": [host],
        "conditions": {"ready": not terminating, "serving": True, "terminating": terminating},
        "nodeName": f"node-{place % 100:03d}",
        "targetRef": {"kind": "Pod", "name": pod, "namespace": namespace, "uid": _uid(f"pod {pod}")},
        "zone": _ZONES[place % len(_ZONES)],
    }


def with_udp(body: Object) -> Object:
    """The Service or slice with its ports over UDP as well."""
    holder = body if body["kind"] == "EndpointSlice" else body["spec"]
    holder["ports"] += [{**port, "name": "udp", "protocol": "UDP"} for port in holder["ports"]]
    return body


def write(path: Path, objects: Iterable[Object]) -> None:
    """Write a ``List`` with kubectl's indentation. The file appears whole: it is renamed into place."""
    items = {"apiVersion": "v1", "items": list(objects), "kind": "List", "metadata": {"resourceVersion": ""}}
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(json.dumps(items, indent=4) + "\n")
    draft.rename(path)


def for_api(body: Object) -> Object:
    """The object as one creates it: without what the API server itself writes."""
    theirs = ("creationTimestamp", "generation", "resourceVersion", "uid")
    metadata = {key: value for key, value in body["metadata"].items() if key not in theirs}
    return {**{key: value for key, value in body.items() if key != "status"}, "metadata": metadata}


def cluster_ip(number: int, net: str) -> str:
    """The ``number``-th address of a /16: no .0 and .255 among them."""
    return f"{net}.{number // 250}.{number % 250 + 1}"


def many(count: int, endpoints: int, bound: int, port: int, target_port: int) -> Iterable[Object]:
    """Services ``svc-00000`` and on, then their slices, ``endpoints`` different addresses each.

    ClusterIPs of the first ``bound`` are of `LOCAL`, the others' of `ELSEWHERE`.
    """
    for number in range(count):
        net = LOCAL if number < bound else ELSEWHERE
        yield service(f"svc-{number:05d}", cluster_ip(number, net), port, namespace=f"team-{number % 50:02d}")
    for number in range(count):
        hosts = [_endpoint_address(number * endpoints + offset) for offset in range(endpoints)]
        yield endpoint_slice(f"svc-{number:05d}", hosts, target_port, namespace=f"team-{number % 50:02d}")


def _endpoint_address(number: int) -> str:
    return f"127.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
