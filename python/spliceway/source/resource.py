"""The collections of the Kubernetes API that are read, and what of them is asked for."""

from __future__ import annotations

from typing import NamedTuple

from spliceway.model import Kind


class Resource(NamedTuple):
    """A collection of the API. ``selectors`` are query parameters of its lists and watches."""

    name: str
    kind: Kind
    path: str
    selectors: dict[str, str]


#: S-01: not the Services that another proxy serves, nor those without an address
SERVICES = Resource(
    "services",
    Kind.SERVICE,
    "/api/v1/services",
    {"labelSelector": "!service.kubernetes.io/service-proxy-name", "fieldSelector": "spec.clusterIP!=None"},
)
#: S-02
ENDPOINT_SLICES = Resource(
    "endpointslices",
    Kind.ENDPOINT_SLICE,
    "/apis/discovery.k8s.io/v1/endpointslices",
    {"labelSelector": "!service.kubernetes.io/headless"},
)
