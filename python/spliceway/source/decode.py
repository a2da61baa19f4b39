"""Kubernetes objects of the wire become values of the model, or faults that name object and field. Pure, never raises.

Rules: S-03 and S-13 for Services, E-01 to E-06 for EndpointSlices, S-12 for addresses (kube-proxy's behaviour). What
is usable of an object is used: a bad port or endpoint is left out and named, the rest stays.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import msgspec

from spliceway.model import Kind, KubernetesObject, ObjectKey, Problem
from spliceway.source import endpointslice, service, wire
from spliceway.source.salvage import Fault, path_text
from spliceway.source.salvage import Path as FieldPath

_HINTS = {
    ("v1", "Endpoints"): ": write an EndpointSlice (discovery.k8s.io/v1) instead",
    ("v1", "EndpointsList"): ": write EndpointSlices (discovery.k8s.io/v1) instead",
    ("discovery.k8s.io/v1beta1", "EndpointSlice"): ": write discovery.k8s.io/v1",
}
_LISTS = {("v1", "List"), ("v1", "ServiceList"), ("discovery.k8s.io/v1", "EndpointSliceList")}
#: what may be meant by a misspelt kind, in lower case
_MEANT = {kind.lower(): (version, kind) for version, kind in _LISTS} | {
    kind.lower(): (version, kind.value) for kind, version in wire.API_VERSIONS.items()
}
#: of two words, how alike they must be: Servce and Service are (0.92), ServiceAccount and Service are not (0.67)
_ALIKE = 0.8
_UNION: msgspec.json.Decoder[wire.Service | wire.EndpointSlice] = msgspec.json.Decoder(
    wire.Service | wire.EndpointSlice
)
_OF_KIND: dict[Kind, msgspec.json.Decoder[wire.Service] | msgspec.json.Decoder[wire.EndpointSlice]] = {
    Kind.SERVICE: msgspec.json.Decoder(wire.Service),
    Kind.ENDPOINT_SLICE: msgspec.json.Decoder(wire.EndpointSlice),
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
    if isinstance(found, wire.Service):
        if found.api_version == "v1" or (kind and not found.api_version):
            meta = found.metadata
            ports = list(enumerate(found.spec.ports or ()))
            return _decode_service(found, ports, meta.annotations or {}, [], manifest)
    elif found.api_version == "discovery.k8s.io/v1" or (kind and not found.api_version):
        ports_of_slice = list(enumerate(found.ports or ()))
        return _decode_slice(found, ports_of_slice, list(enumerate(found.endpoints or ())), [], manifest)
    return _decode_slowly(data, kind, manifest)


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
        return _decode_slice(*endpointslice.salvage(value, faults), faults, manifest)
    except service.UnusableError as error:
        faults.append(error.fault)
    version = value["metadata"].get("resourceVersion") if isinstance(value.get("metadata"), dict) else None
    return Decoded(
        subject,
        kind,
        _key_of(value.get("metadata"), manifest),
        faults=tuple(faults),
        resource_version=version if isinstance(version, str) else "",
    )


def _decode_service(
    found: wire.Service,
    ports: list[tuple[int, wire.ServicePort]],
    annotations: dict[str, str],
    faults: list[Fault],
    manifest: bool,
) -> Decoded:
    meta = found.metadata
    key = _key(meta.namespace, meta.name, manifest, faults)
    subject = f"Service {key or _name(meta.namespace, meta.name)}"
    version = meta.resource_version or ""
    made = service.make(key, found, ports, annotations, faults) if key else None
    return Decoded(subject, Kind.SERVICE, key, made, tuple(faults), resource_version=version)


def _decode_slice(
    found: wire.EndpointSlice,
    ports: list[tuple[int, wire.SlicePort]],
    endpoints: list[tuple[int, wire.Endpoint]],
    faults: list[Fault],
    manifest: bool,
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
    made = endpointslice.make(key, found, ports, endpoints, faults, default_name="" if manifest else None)
    return Decoded(subject, Kind.ENDPOINT_SLICE, key, made, tuple(faults), resource_version=version)


def _key(namespace: str | None, name: str | None, manifest: bool, faults: list[Fault]) -> ObjectKey | None:
    if namespace is None and manifest:
        namespace = "default"
    for field, text in (("namespace", namespace), ("name", name)):
        fault = service.name_fault(("metadata", field), text)
        if fault:
            faults.append(fault)
            return None
    return ObjectKey(sys.intern(namespace or ""), sys.intern(name or ""))


def _key_of(metadata: object, manifest: bool) -> ObjectKey | None:
    """The key of an object that is unusable otherwise, so that its last good version can be kept."""
    if not isinstance(metadata, dict):
        return None
    namespace, name = metadata.get("namespace"), metadata.get("name")
    if not (isinstance(namespace, str | None) and isinstance(name, str)):
        return None
    return _key(namespace, name, manifest, [])


def _subject(kind: object, metadata: object) -> str:
    kind_text = kind if isinstance(kind, str) else ""
    if not isinstance(metadata, dict):
        return kind_text
    namespace, name = metadata.get("namespace"), metadata.get("name")
    return f"{kind_text} {_name(namespace, name)}".strip()


def _name(namespace: object, name: object) -> str:
    """A name for a message: whatever was written, cut short."""
    shown = str(name)[:253] if isinstance(name, str) and name else "(no name)"
    return f"{str(namespace)[:63]}/{shown}" if isinstance(namespace, str) and namespace else f"default/{shown}"


def _malformed(error: Exception) -> Decoded:
    text = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return Decoded("", faults=(Fault((), f"not valid JSON: {text}"),), malformed=True)
