"""A Kubernetes source on a `FakeApi`, and the comparison of what it told with what the server has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from spliceway.model import Kind
from spliceway.settings import NodeSettings, SourceSettings
from spliceway.source import kubernetes, open_source
from support.fakeapi import NODES, SERVICES, SLICES, FakeApi
from support.fold import Fold


def source_of(
    api: FakeApi, folder: Path, node: NodeSettings | None = None, **changes: Any
) -> kubernetes.KubernetesSource:
    """The source, with times that suit a test."""
    given: dict[str, Any] = {"watch_timeout": 5.0, "request_timeout": 0.3, "backoff": 0.01, "backoff_limit": 0.05}
    source = open_source(SourceSettings(kubeconfig=api.kubeconfig(folder), **{**given, **changes}), node)
    assert isinstance(source, kubernetes.KubernetesSource)
    return source


def versions(fold: Fold, kind: Kind = Kind.SERVICE) -> dict[str, str]:
    """The resource version of every object that was told, by its name."""
    return {key.name: made.resource_version for (_, of, key), made in fold.objects.items() if of is kind}


def same(fold: Fold, api: FakeApi) -> bool:
    """Say whether the Services and slices that were told are those that the server has."""
    return versions(fold) == api.versions(SERVICES) and versions(fold, Kind.ENDPOINT_SLICE) == api.versions(SLICES)


async def watching(api: FakeApi, times: int = 1, *, nodes: bool = False) -> None:
    """Wait until every kind is watched: before that, a change may still be part of the list."""
    paths = (SERVICES, SLICES, NODES) if nodes else (SERVICES, SLICES)
    await trio.to_thread.run_sync(lambda: api.wait_for("watch", times, paths=paths))
