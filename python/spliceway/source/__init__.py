"""Where Services, EndpointSlices and our Node come from: files, or the Kubernetes API. A source makes facts of them.

A `Source` is run in a nursery and sends facts until it is cancelled; what it is told of, the store folds. Passing
faults (a broken edit, an API server that is away) never end it: they become `Problems`, and the last state stays.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from spliceway.errors import SourceError
from spliceway.model import Fact, SourceStatistics
from spliceway.settings import NodeSettings, SourceSettings
from spliceway.source.fields import is_name

if TYPE_CHECKING:
    import trio

__all__ = ["Source", "open_source"]


#: what may be the value of a label
_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


class Source(Protocol):
    """Something that says which Services, EndpointSlices and Nodes exist; of Nodes at most the one that is ours."""

    name: str
    #: the `Synced.source` values that it sends, one each
    synced_names: tuple[str, ...]

    async def run(self, facts: trio.MemorySendChannel[tuple[Fact, ...]]) -> None:
        """Send facts, at most 500 a batch, until cancelled. Never raises for a passing fault."""
        ...

    def statistics(self) -> tuple[SourceStatistics, ...]:
        """Return the state of each of its streams of facts."""
        ...


def open_source(settings: SourceSettings, node: NodeSettings | None = None) -> Source:
    """Return the source that ``settings`` ask for; nothing is read or watched before it is run.

    ``node`` says which Node is ours (its Node object is then told as well) and which Services are meant for us (of the
    API; manifests are told whole).

    Blocks (it imports the Kubernetes client and may run a kubeconfig's credential plugin): in a Trio program call it in
    a thread. Raises `SourceError` when there can be no such source: a path that does not exist, a missing or unusable
    kubeconfig, no such context, not in a cluster, both files and a kubeconfig, a name that no Node or label can have.
    """
    node = node or NodeSettings()
    if settings.manifests:
        if settings.kubeconfig or settings.context:
            raise SourceError("Services come either from manifests or from a kubeconfig: give only one of them")
        for path in settings.manifests:
            _check_manifest(path)
        from spliceway.source.file import FileSource

        return FileSource(settings.manifests, node.name)
    _check_names(node)
    from spliceway.source.kubernetes import KubernetesSource

    return KubernetesSource(settings, node)


def _check_names(node: NodeSettings) -> None:
    if node.name is not None and not is_name(node.name):
        raise SourceError(
            f"{node.name!r} cannot be the name of a Node: it is not lower-case letters, digits, '-' and '.'"
        )
    if node.proxy_name is not None and not _LABEL_VALUE.fullmatch(node.proxy_name):
        raise SourceError(f"{node.proxy_name!r} cannot be the name of a service proxy: it is not the value of a label")


def _check_manifest(path: Path) -> None:
    try:
        path.stat()
    except FileNotFoundError:
        raise SourceError(f"manifest {path} does not exist") from None
    except OSError as error:
        raise SourceError(f"manifest {path} cannot be read: {(error.strerror or str(error)).lower()}") from error
