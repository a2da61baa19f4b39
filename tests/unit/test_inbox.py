"""What waits for the next turn. A failure loses changes, or lets programs wait for ever."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from spliceway.errors import EngineClosedError
from spliceway.inbox import CAPACITY, Inbox
from spliceway.observe.syncs import SyncTimes
from spliceway.plan.service import PlanOptions
from spliceway.planning import Planning
from support.objects import key, service, upserts


@pytest.fixture
def planning() -> Planning:
    return Planning(PlanOptions(), ())


async def test_one_turn_takes_all_that_waits_in_its_order(planning: Planning) -> None:
    inbox = Inbox(planning, SyncTimes())
    order: list[int] = []
    async with trio.open_nursery() as nursery:
        for number in range(CAPACITY - 1):
            await inbox.channel.send(upserts([service("shop", f"10.96.0.{number}")]))
        nursery.start_soon(inbox.request, lambda: order.append(len(order)))
        await trio.testing.wait_all_tasks_blocked()
        (request,) = await inbox.wait()
        request.done.set()
    assert order == [0]
    view = planning.store.view(key("shop"))
    assert view.service is not None
    assert view.service.cluster_ips == (f"10.96.0.{CAPACITY - 2}",), "the last word counts"


async def test_a_source_waits_while_the_inbox_is_full(planning: Planning) -> None:
    """Otherwise a relist of a big cluster would be in memory twice."""
    inbox = Inbox(planning, SyncTimes())
    for _ in range(CAPACITY):
        inbox.channel.send_nowait(())
    with pytest.raises(trio.WouldBlock):
        inbox.channel.send_nowait(())
    assert await inbox.wait() == []
    inbox.channel.send_nowait(())


async def test_requests_under_way_end_when_the_pipeline_stops(planning: Planning) -> None:
    inbox = Inbox(planning, SyncTimes())

    async def ask() -> None:
        with pytest.raises(EngineClosedError):
            await inbox.request(lambda: None)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for _ in range(CAPACITY + 1):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            inbox.close()
        await ask()
