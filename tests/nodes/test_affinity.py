"""Session affinity, as Kubernetes' tests ask for it: by ClusterIP and by NodePort."""

from __future__ import annotations

import time
from typing import Any

import pytest

from support.nodes import Host, Rig
from support.rig import wait_until

from .expect import answers, hold, served
from .services import Service, Services, Target

pytestmark = [pytest.mark.nodes, pytest.mark.parametrize("kind", ["ClusterIP", "NodePort"])]
REQUESTS = 15
#: the API allows from 1 s on
BRIEF = 1
#: draws of one of three backends that are all the same: 1 in 177,000
DRAWS = 11


def _sticky(seconds: int) -> dict[str, Any]:
    return {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}}


def _backends(rig: Rig) -> list[Host]:
    return [rig.node(1).pod(1), rig.node(2).pod(1), rig.node(3).pod(1)]


def _target(service: Service, rig: Rig, kind: str, port: str = "tcp") -> Target:
    return service.cluster(port) if kind == "ClusterIP" else service.node_port(rig.node(1), port)


def _sticks(client: Host, target: Target) -> bool:
    return len(answers(client, target, REQUESTS)) == 1


def test_should_have_session_affinity_work(services: Services, rig: Rig, kind: str) -> None:
    """A client would meet a backend that does not know its session (A-01, A-04)."""
    service = services.create("affinity", type=kind, **_sticky(10800))
    service.endpoints(*_backends(rig))
    for client in (rig.node(1).pod(3), rig.node(2).pod(2), rig.node(1)):
        for port in ("tcp", "udp"):
            wait_until(lambda: _served(client, _target(service, rig, kind, port)), "it serves")  # noqa: B023
            assert _sticks(client, _target(service, rig, kind, port))
    if kind == "NodePort":
        for loopback in ("127.0.0.1", "::1"):
            assert _sticks(rig.node(1), service.node_port(loopback))


def _served(client: Host, target: Target) -> bool:
    try:
        return bool(answers(client, target, 1))
    except AssertionError:
        return False


def test_should_have_session_affinity_timeout_work(services: Services, rig: Rig, kind: str) -> None:
    """A client would be bound for ever to the backend that it met first, or lose it too early (A-02, A-06)."""
    service = services.create("affinity-timeout", type=kind, **_sticky(BRIEF))
    service.endpoints(*_backends(rig))
    client, target = rig.node(1).pod(3), _target(service, rig, kind)
    wait_until(lambda: _served(client, target), "it serves")
    assert _sticks(client, target)
    seen: set[str] = set()
    for _ in range(DRAWS):
        seen |= set(answers(client, target, 1))
        if len(seen) > 1:
            return
        time.sleep(BRIEF + 0.1)  # the time that passes is what this is about
    pytest.fail(f"always {seen}")


def test_should_be_able_to_switch_session_affinity(services: Services, rig: Rig, kind: str) -> None:
    """A Service that gives up affinity would not spread, or one that takes it up would lose sessions (A-04)."""
    client = rig.node(1).pod(3)
    service = services.create("affinity-transition", type=kind)
    service.endpoints(*_backends(rig))
    targets = [_target(service, rig, kind, port) for port in ("tcp", "udp")]
    hold(*(served(client, target, *_backends(rig)) for target in targets))
    for _ in range(2):
        service.change(**_sticky(10800))
        wait_until(lambda: all(_sticks(client, target) for target in targets), "it sticks")
        assert all(_sticks(client, target) for target in targets)
        service.change(sessionAffinity="None", sessionAffinityConfig=None)
        hold(*(served(client, target, *_backends(rig)) for target in targets))
