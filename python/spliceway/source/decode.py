"""Kubernetes objects of the wire become values of the model, or faults that name object and field. Pure, never raises.

Rules: S-03 to S-13 for Services, E-01 to E-08 for EndpointSlices, W-22 to W-24 for Nodes, S-12 for addresses
(kube-proxy's behaviour). What is usable of an object is used: a bad port or endpoint is left out and named, the rest
stays.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import msgspec

from spliceway.model import Kind, KubernetesObject, ObjectKey, Problem
from spliceway.source import endpointslice, node, service, wire
from spliceway.source.fields import name_fault
from spliceway.source.salvage import Fault, UnusableError, path_text
from spliceway.source.salvage import Path as FieldPath

_HINTS = {
    ("v1", "Endpoints"): ": write an EndpointSlice (discovery.k8s.io/v1) instead",
    ("v1", "EndpointsList"): ": write EndpointSlices (discovery.k8s.io/v1) instead",
    ("discovery.k8s.io/v1beta1", "EndpointSlice"): ": write discovery.k8s.io/v1",
}
_LISTS = {("v1", "List"), ("v1", "ServiceList"), ("v1", "NodeList"), ("discovery.k8s.io/v1", "EndpointSliceList")}
#: what may be meant by a misspelt kind, in lower case; a NodeList is not, which a PodList is too much like
_MEANT = {kind.lower(): (version, kind) for version, kind in _LISTS if kind != "NodeList"} | {
    kind.lower(): (version, kind.value) for kind, version in wire.API_VERSIONS.items()
}
#: of two words, how alike they must be: Servce and Service are (0.92), ServiceAccount and Service are not (0.67)
_ALIKE = 0.8
_Wire = wire.Service | wire.EndpointSlice | wire.Node
_UNION: msgspec.json.Decoder[_Wire] = msgspec.json.Decoder(_Wire)
_OF_KIND: dict[
    Kind,
    msgspec.json.Decoder[wire.Service] | msgspec.json.Decoder[wire.EndpointSlice] | msgspec.json.Decoder[wire.Node],
] = {
    Kind.SERVICE: msgspec.json.Decoder(wire.Service),
    Kind.ENDPOINT_SLICE: msgspec.json.Decoder(wire.EndpointSlice),
    Kind.NODE: msgspec.json.Decoder(wire.Node),
}


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """What became of one object.

    ``object`` is None when nothing of it can be used. Then ``ignored`` tells an object that is well but not for us
    (another kind, an EndpointSlice of no Service) from a bad one. ``malformed`` says that it was not even JSON.
    """

    subject: str
    kind: Kind | None = None
    key: ObjectKey | None = None
    object: KubernetesObject | None = None
    faults: tuple[Fault, ...] = ()
    ignored: bool = False
    malformed: bool = False
    resource_version: str = ""

    def problems(
        self, origin: str, line_of: Callable[[FieldPath], int | None] = lambda _: None, suffix: str = ""
    ) -> tuple[Problem, ...]:
        """Return the faults as problems of ``origin``; ``line_of`` finds the line of a field."""
        return tuple(
            Problem(
                subject=self.subject,
                message=(f"{path_text(fault.path)}: {fault.message}" if fault.path else fault.message)
                + ("" if fault.warning else suffix),
                origin=origin,
                line=line_of(fault.path),
                warning=fault.warning,
            )
            for fault in self.faults
        )


def decode_json(data: bytes | msgspec.Raw, kind: Kind | None = None, *, manifest: bool = False) -> Decoded:
    """Decode one object from JSON.

    ``kind`` is what an object is that does not say it itself, as the items of a ServiceList. ``manifest`` applies the
    defaults that the API server would have applied (namespace ``default``, slice port name ``""``). Never raises.
    """
    try:
        found = (_OF_KIND[kind] if kind else _UNION).decode(data)
    except msgspec.ValidationError:
        return _decode_slowly(data, kind, manifest)
    except (ValueError, RecursionError) as error:
        return _malformed(error)
    version = wire.API_VERSIONS[Kind.ENDPOINT_SLICE if isinstance(found, wire.EndpointSlice) else Kind.SERVICE]
    if found.api_version != version and (found.api_version or not kind):
        return _decode_slowly(data, kind, manifest)
    if isinstance(found, wire.Service):
        return _decode_service(found, service.parts_of(found), [], manifest)
    if isinstance(found, wire.EndpointSlice):
        return _decode_slice(found, endpointslice.parts_of(found), [], manifest)
    return _decode_node(found, node.parts_of(found), [])


def decode_value(value: object, kind: Kind | None = None, *, manifest: bool = False) -> Decoded:
    """Decode one object from plain values (dict, list, str, int, float, bool, None), as `decode_json` does."""
    if not isinstance(value, dict):
        return Decoded(
            "", faults=(Fault((), "expected a Kubernetes object, which is a mapping with kind and metadata"),)
        )
    api_version, kind_name = value.get("apiVersion"), value.get("kind")
    if kind and api_version is None and kind_name is None:
        api_version, kind_name = wire.API_VERSIONS[kind], kind.value
    subject = _subject(kind_name, value.get("metadata"))
    for name, text in (("kind", kind_name), ("apiVersion", api_version)):
        if not isinstance(text, str) or not text:
            message = "is missing" if text is None else "expected a text"
            return Decoded(subject, faults=(Fault((name,), message),))
    known = next(
        (kind for kind, version in wire.API_VERSIONS.items() if (version, kind) == (api_version, kind_name)), None
    )
    if known is None:
        fault = _foreign(str(api_version), str(kind_name))
        return Decoded(subject, faults=(fault,), ignored=fault.warning)
    return _decode_piecewise(value, known, subject, manifest)


def _foreign(api_version: str, kind: str) -> Fault:
    """Say that a kind is not read: a warning, but an error when it looks like a typing mistake."""
    name = (api_version, kind)
    hint = _HINTS.get(name, "")
    if not hint and name not in _LISTS and api_version in wire.API_VERSIONS.values():
        for meant in get_close_matches(kind[:64].lower(), _MEANT, 1, _ALIKE):
            return Fault(("kind",), f"{api_version} {kind[:64]} is not known; did you mean {' '.join(_MEANT[meant])}?")
    return Fault((), f"kind {api_version} {kind} is not read; left alone{hint}", warning=True)


def _decode_slowly(data: bytes | msgspec.Raw, kind: Kind | None, manifest: bool) -> Decoded:
    try:
        value = msgspec.json.decode(data)
    except (ValueError, RecursionError) as error:
        return _malformed(error)
    return decode_value(value, kind, manifest=manifest)


def _decode_piecewise(value: dict[Any, Any], kind: Kind, subject: str, manifest: bool) -> Decoded:
    faults: list[Fault] = []
    try:
        if kind is Kind.SERVICE:
            return _decode_service(*service.salvage(value, faults), faults, manifest)
        if kind is Kind.ENDPOINT_SLICE:
            return _decode_slice(*endpointslice.salvage(value, faults), faults, manifest)
        return _decode_node(*node.salvage(value, faults), faults)
    except UnusableError as error:
        faults.append(error.fault)
    version = value["metadata"].get("resourceVersion") if isinstance(value.get("metadata"), dict) else None
    return Decoded(
        subject,
        kind,
        _key_of(kind, value.get("metadata"), manifest),
        faults=tuple(faults),
        resource_version=version if isinstance(version, str) else "",
    )


def _decode_service(found: wire.Service, parts: service.Parts, faults: list[Fault], manifest: bool) -> Decoded:
    meta = found.metadata
    key = _key(meta.namespace, meta.name, manifest, faults)
    subject = f"Service {key or _name(meta.namespace, meta.name)}"
    version = meta.resource_version or ""
    made = service.make(key, found, parts, faults) if key else None
    return Decoded(subject, Kind.SERVICE, key, made, tuple(faults), resource_version=version)


def _decode_slice(
    found: wire.EndpointSlice, parts: endpointslice.Parts, faults: list[Fault], manifest: bool
) -> Decoded:
    meta = found.metadata
    key = _key(meta.namespace, meta.name, manifest, faults)
    subject = f"EndpointSlice {key or _name(meta.namespace, meta.name)}"
    version = meta.resource_version or ""
    if key is None:
        return Decoded(subject, Kind.ENDPOINT_SLICE, None, None, tuple(faults), resource_version=version)
    reason = endpointslice.reason_to_ignore(found)
    if reason:
        return Decoded(subject, Kind.ENDPOINT_SLICE, key, None, (reason,), ignored=True, resource_version=version)
    made = endpointslice.make(key, found, parts, faults, default_name="" if manifest else None)
    return Decoded(subject, Kind.ENDPOINT_SLICE, key, made, tuple(faults), resource_version=version)


def _decode_node(found: wire.Node, parts: node.Parts, faults: list[Fault]) -> Decoded:
    meta = found.metadata
    key = _node_key(meta.name, faults)
    made = node.make(key, found, parts, faults) if key else None
    subject = f"Node {_shown(meta.name)}"
    return Decoded(subject, Kind.NODE, key, made, tuple(faults), resource_version=meta.resource_version or "")


def _key(namespace: str | None, name: str | None, manifest: bool, faults: list[Fault]) -> ObjectKey | None:
    if namespace is None and manifest:
        namespace = "default"
    for field, text in (("namespace", namespace), ("name", name)):
        fault = name_fault(("metadata", field), text)
        if fault:
            faults.append(fault)
            return None
    return ObjectKey(sys.intern(namespace or ""), sys.intern(name or ""))


def _node_key(name: str | None, faults: list[Fault]) -> ObjectKey | None:
    """A Node has no namespace."""
    fault = name_fault(("metadata", "name"), name)
    if fault:
        faults.append(fault)
        return None
    return ObjectKey("", sys.intern(name or ""))


def _key_of(kind: Kind, metadata: object, manifest: bool) -> ObjectKey | None:
    """The key of an object that is unusable otherwise, so that its last good version can be kept."""
    if not isinstance(metadata, dict):
        return None
    namespace, name = metadata.get("namespace"), metadata.get("name")
    if not (isinstance(namespace, str | None) and isinstance(name, str)):
        return None
    return _node_key(name, []) if kind is Kind.NODE else _key(namespace, name, manifest, [])


def _subject(kind: object, metadata: object) -> str:
    kind_text = kind if isinstance(kind, str) else ""
    if not isinstance(metadata, dict):
        return kind_text
    namespace, name = metadata.get("namespace"), metadata.get("name")
    return f"{kind_text} {_shown(name) if kind == Kind.NODE else _name(namespace, name)}".strip()


def _name(namespace: object, name: object) -> str:
    """A name for a message: whatever was written, cut short."""
    shown = _shown(name)
    return f"{str(namespace)[:63]}/{shown}" if isinstance(namespace, str) and namespace else f"default/{shown}"


def _shown(name: object) -> str:
    return str(name)[:253] if isinstance(name, str) and name else "(no name)"


def _malformed(error: Exception) -> Decoded:
    text = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return Decoded("", faults=(Fault((), f"not valid JSON: {text}"),), malformed=True)
