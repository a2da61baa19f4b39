"""What happens in the demo, and when."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import trio
import yaml

from spliceway.cli.demo.processes import Agent, running, start_backend
from spliceway.cli.demo.traffic import Traffic
from spliceway.errors import ManifestError
from spliceway.model import Address, EndpointSlice, Protocol, Service
from spliceway.observe.stats import ServicePortRow
from spliceway.source.manifest import read_manifest

#: clients that open a connection for each request, clients that keep theirs, and requests a second of each
_NEW, _KEPT, _RATE = 9, 3, 40.0
#: seconds of each phase, besides what the agent takes to notice
_PHASE = 2.2

Say = Callable[[str], None]


class Scene(NamedTuple):
    """What a manifest asks for: an address for clients, and backends by name."""

    frontend: Address
    pool: str
    backends: dict[str, Address]


class Outcome(NamedTuple):
    """What the clients and the agent counted."""

    scene: Scene
    traffic: Traffic
    row: ServicePortRow


def read_scene(manifest: Path) -> Scene:
    """The first TCP port of the manifest's first Service. Raises `ManifestError`."""
    objects = read_manifest(manifest).objects
    for service in (each for each in objects if isinstance(each, Service)):
        ports = [port for port in service.ports if port.protocol is Protocol.TCP]
        if not ports or not service.cluster_ips:
            continue
        addresses = dict.fromkeys(
            Address(endpoint.address, port.port)
            for each in objects
            if isinstance(each, EndpointSlice) and each.service == service.key.name
            for port in each.ports
            if port.name == ports[0].name
            for endpoint in each.endpoints
        )
        if len(addresses) >= 3:
            pool = f"{service.key}:{ports[0].name}" if ports[0].name else str(service.key)
            backends = {f"pod-{number}": address for number, address in enumerate(addresses, 1)}
            return Scene(Address(service.cluster_ips[0], ports[0].port), pool, backends)
    raise ManifestError(f"{manifest}: no Service with a ClusterIP, a TCP port and three endpoints")


async def play(manifest: Path, say: Say) -> Outcome | None:
    """Run the demo; None when a signal ended it. Every process is gone afterwards.

    Raises:
        SplicewayError: something the demo needs is not there; the text says what.
    """
    outcome: Outcome | None = None
    with tempfile.TemporaryDirectory(prefix="spliceway-demo-") as folder:
        async with trio.open_nursery() as nursery:
            await nursery.start(_cancel_on_signal, nursery.cancel_scope)
            outcome = await _Play(manifest, Path(folder), say).run()
            nursery.cancel_scope.cancel()
    return outcome


async def _cancel_on_signal(
    scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()


class _Play:
    def __init__(self, manifest: Path, folder: Path, say: Say) -> None:
        self._copy = folder / manifest.name
        self._copy.write_bytes(manifest.read_bytes())
        self._folder = folder
        self._say = say
        self._scene = read_scene(self._copy)
        self._processes: dict[str, trio.Process] = {}

    async def run(self) -> Outcome:
        async with AsyncExitStack() as stack:
            for name in self._scene.backends:
                await self._start(name, stack)
            agent = await Agent.start(self._copy, self._folder)
            await stack.enter_async_context(running(agent.process))
            await agent.wait(lambda state: state.ready and self._ready_endpoints(state.services) > 0, "Serving")
            names = ", ".join(f"{name} {address}" for name, address in self._scene.backends.items())
            self._say(f"agent pid {agent.process.pid} serves {self._scene.frontend} with {names}")
            traffic = Traffic(self._scene.frontend, new=_NEW, kept=_KEPT, rate=_RATE)
            async with trio.open_nursery() as nursery:
                traffic.begin("all serve")
                nursery.start_soon(traffic.run)
                await trio.sleep(_PHASE)
                await self._scenes(agent, traffic, stack)
                nursery.cancel_scope.cancel()
            state = await agent.state()
            row = next(row for row in state.services if row.pool == self._scene.pool)
            return Outcome(self._scene, traffic, row)

    async def _scenes(self, agent: Agent, traffic: Traffic, stack: AsyncExitStack) -> None:
        first, *_, last = self._scene.backends
        traffic.begin(f"{first} killed")
        self._say(f"SIGKILL {first}: nobody tells the agent, and the endpoint stays in the manifest")
        self._processes[first].kill()
        await self._processes[first].wait()
        await trio.sleep(_PHASE)

        traffic.begin(f"{first} restored")
        self._say(f"start {first} again")
        await self._start(first, stack)
        await agent.wait(lambda state: not state.unhealthy, f"The return of {first}")
        self._say(f"{first} answers probes again and gets clients")
        await trio.sleep(_PHASE)

        self._say(f"remove {last} from {self._copy.name}")
        self._remove_endpoint(self._scene.backends[last])
        left = len(self._scene.backends) - 1
        await agent.wait(lambda state: self._ready_endpoints(state.services) == left, f"The removal of {last}")
        traffic.begin(f"{last} removed")
        await trio.sleep(_PHASE)

    async def _start(self, name: str, stack: AsyncExitStack) -> None:
        process = await start_backend(self._scene.backends[name], name)
        self._processes[name] = await stack.enter_async_context(running(process))

    def _ready_endpoints(self, rows: tuple[ServicePortRow, ...]) -> int:
        return next((row.ready for row in rows if row.pool == self._scene.pool), 0)

    def _remove_endpoint(self, address: Address) -> None:
        """Write the manifest without ``address``, as an editor does: beside it, then over it."""
        documents = list(yaml.safe_load_all(self._copy.read_text()))
        for document in documents:
            if document["kind"] == "EndpointSlice":
                kept = [each for each in document["endpoints"] if address.host not in each["addresses"]]
                document["endpoints"] = kept
        draft = self._folder / ".draft"
        draft.write_text(yaml.safe_dump_all(documents))
        draft.replace(self._copy)
