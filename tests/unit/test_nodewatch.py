"""The agent ends when its Node is not what it was (W-23), and waits for a new Node's details (W-05)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from spliceway.errors import NodeError
from spliceway.model import Node, ObjectKey
from spliceway.node.watch import watch_node
from spliceway.settings import CaptureSettings, DetectLocal, NodeSettings
from support.fakeobserved import FakeObserved

NODE = Node(ObjectKey("", "n1"), "zone-a", ("192.0.2.1", "fd00::1"), ("10.0.1.0/24",))
DEFAULTS = CaptureSettings()
BY_CIDR = CaptureSettings(detect_local=DetectLocal.NODE_CIDR)


@asynccontextmanager
async def watching(
    observed: FakeObserved, capture: CaptureSettings = DEFAULTS, says: str | None = None
) -> AsyncIterator[None]:
    """Watch during the block; ``says`` is the error that must end it, None: it must go on."""
    ended: list[NodeError] = []

    async def watch() -> None:
        try:
            await watch_node(observed, NodeSettings(name="n1"), capture)
        except NodeError as error:
            ended.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await wait_all_tasks_blocked()
        yield
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [bool(re.search(says, str(error))) for error in ended] == [True] if says else not ended, ended


async def change(observed: FakeObserved, node: Node | None) -> None:
    observed.present_node = node
    observed.change()
    await wait_all_tasks_blocked()


@pytest.fixture
def observed() -> FakeObserved:
    observed = FakeObserved()
    observed.present_node = NODE
    return observed


async def test_deleted_node(observed: FakeObserved) -> None:
    """A node taken out of the cluster would go on as if it belonged to it."""
    async with watching(observed, says="Node n1 was deleted"):
        await change(observed, None)


@pytest.mark.parametrize("addresses", [("192.0.2.9", "fd00::1"), ("192.0.2.1",), ()])
async def test_other_addresses(observed: FakeObserved, addresses: tuple[str, ...]) -> None:
    """Clients of NodePorts and of kept sources would be handled by addresses that the node had once."""
    async with watching(observed, says="has other addresses than at start: .*, not 192.0.2.1, fd00::1"):
        await change(observed, msgspec.structs.replace(NODE, addresses=addresses))


async def test_other_pod_cidrs_end_it_only_where_they_matter(observed: FakeObserved) -> None:
    """Pods would be taken for strangers, or every agent would restart for nothing."""
    other = msgspec.structs.replace(NODE, pod_cidrs=("10.0.2.0/24",))
    async with watching(observed, BY_CIDR, says="other podCIDRs than at start: 10.0.2.0/24, not 10.0.1.0/24"):
        await change(observed, other)
    async with watching(observed):
        await change(observed, NODE)


async def test_zone_taints_and_nothing_at_all_do_not_end_it(observed: FakeObserved) -> None:
    """Agents would restart with every heartbeat of the kubelet (W-22, W-24)."""
    async with watching(observed, BY_CIDR):
        await change(observed, NODE)
        await change(observed, msgspec.structs.replace(NODE, zone="zone-b"))
        await change(observed, msgspec.structs.replace(NODE, eligible=False, resource_version="9"))


async def test_a_new_node_gets_its_addresses_in_time(observed: FakeObserved, autojump_clock: MockClock) -> None:
    """On a node that just joined, the agent would restart until the kubelet is done."""
    bare = msgspec.structs.replace(NODE, addresses=(), pod_cidrs=())
    observed.present_node = bare
    async with watching(observed, BY_CIDR):
        await trio.sleep(29)
        await change(observed, msgspec.structs.replace(bare, addresses=NODE.addresses))
        await trio.sleep(299)
        await change(observed, NODE)
        await trio.sleep(1000)


async def test_addresses_that_come_too_late_end_it(observed: FakeObserved, autojump_clock: MockClock) -> None:
    """It would serve without the node's addresses for ever (W-23)."""
    observed.present_node = None
    async with watching(observed, says="other addresses than at start: 192.0.2.1, fd00::1, not none"):
        await trio.sleep(31)
        await change(observed, NODE)


async def test_pod_cidrs_that_never_come_end_it(observed: FakeObserved, autojump_clock: MockClock) -> None:
    """Without podCIDRs no Pod is known as one, and nobody would be told."""
    observed.present_node = msgspec.structs.replace(NODE, pod_cidrs=())
    async with watching(observed, BY_CIDR, says="has no podCIDRs after 300 s, which .* NodeCIDR needs"):
        await trio.sleep(301)


async def test_it_waits_for_the_first_state_without_a_limit(observed: FakeObserved, autojump_clock: MockClock) -> None:
    """An API server that is away at start would end every agent of the cluster (W-05)."""
    observed.present_node = None
    observed.is_ready = False
    async with watching(observed):
        await trio.sleep(10_000)
        observed.is_ready = True
        await change(observed, NODE)
