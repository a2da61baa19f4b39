"""The collections of the Kubernetes API that are read, and what of them is asked for."""

from __future__ import annotations

from typing import NamedTuple

from spliceway.model import Kind

_PROXY_NAME = "service.kubernetes.io/service-proxy-name"


class Resource(NamedTuple):
    """A collection of the API. ``selectors`` are query parameters of its lists and watches."""

    name: str
    kind: Kind
    #: API group, as RBAC rules name it; "" is the core
    group: str
    path: str
    selectors: dict[str, str]


def services(proxy_name: str | None = None) -> Resource:
    """Services with an address, those for another proxy left out (S-01).

    ``proxy_name``: only those that are labelled for the proxy of this name; None: only those for no certain proxy.
    """
    label = f"!{_PROXY_NAME}" if proxy_name is None else f"{_PROXY_NAME}={proxy_name}"
    selectors = {"labelSelector": label, "fieldSelector": "spec.clusterIP!=None"}
    return Resource("services", Kind.SERVICE, "", "/api/v1/services", selectors)


def endpoint_slices() -> Resource:
    """EndpointSlices of all Services but headless ones (S-02)."""
    selectors = {"labelSelector": "!service.kubernetes.io/headless"}
    path = "/apis/discovery.k8s.io/v1/endpointslices"
    return Resource("endpointslices", Kind.ENDPOINT_SLICE, "discovery.k8s.io", path, selectors)


def node(name: str) -> Resource:
    """The one Node of this name."""
    return Resource("nodes", Kind.NODE, "", "/api/v1/nodes", {"fieldSelector": f"metadata.name={name}"})
