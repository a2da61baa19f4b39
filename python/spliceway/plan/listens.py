"""Which port of a Service stands behind an address that the user chose. Pure."""

from __future__ import annotations

from collections.abc import Collection

from spliceway.model import ObjectKey, Problem, Protocol, Service, ServicePortSpec
from spliceway.settings import Listen


def missing_service(key: ObjectKey, listen: Listen) -> Problem:
    """The Service that ``listen`` names does not exist."""
    message = f"Service {key} does not exist; the address stays closed until it does"
    return Problem(f"Frontend {listen.address}", message)


def port_of_listen(service: Service, listen: Listen, protocols: Collection[Protocol]) -> ServicePortSpec | Problem:
    """The port that ``listen`` means, or why there is none: the one that it names, or else the only one.

    Without a name a TCP port goes before UDP ports: DNS Services have both under one number.
    """
    subject = f"Frontend {listen.address}"
    if service.type == "ExternalName":
        return Problem(subject, f"Service {service.key} is of type ExternalName and has no endpoints to serve")
    ports = [port for port in service.ports if port.protocol in protocols]
    if listen.port_name is None:
        ports = [port for port in ports if port.protocol is Protocol.TCP] or ports
        if len(ports) == 1:
            return ports[0]
        kind = f"{ports[0].protocol} ports" if ports else f"{' or '.join(sorted(protocols))} port"
        message = f"has {len(ports) or 'no'} {kind} ({_names(ports)}); name exactly one of them"
        return Problem(subject, f"Service {service.key} {message}" if ports else f"Service {service.key} has no {kind}")
    for port in ports:
        if port.name == listen.port_name:
            return port
    kinds = " or ".join(sorted(protocols))
    message = f"Service {service.key} has no {kinds} port named {listen.port_name}; it has: {_names(ports)}"
    return Problem(subject, message)


def _names(ports: Collection[ServicePortSpec]) -> str:
    return ", ".join(port.name or str(port.port) for port in ports) or "none"
