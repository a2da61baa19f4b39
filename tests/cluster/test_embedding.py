"""The load balancer inside another program serves a cluster's Services."""

from __future__ import annotations

import pytest
import trio

import spliceway
from support.rig import wait_until

from .cluster import Cluster, endpoint
from .controlplane import ControlPlane
from .traffic import Backend, Flow, ask_many, wait_refused

pytestmark = pytest.mark.cluster


async def wait_for_answers(address: spliceway.Address, names: set[str]) -> None:
    """Return when new connections are answered by exactly these backends."""
    await trio.to_thread.run_sync(wait_until, lambda: ask_many(address, 40) == names, f"answers of {names}")


async def test_program_serves_a_service_of_the_cluster(
    plane: ControlPlane, cluster: Cluster, hosts: tuple[str, ...]
) -> None:
    """Python programs could not embed the load balancer next to a cluster, which is what the wheel is for."""
    with Backend("a", hosts[1]), Backend("b", hosts[2]):
        cluster.service("shop", {"http": 80, "admin": 81})
        name = cluster.slice("shop", endpoint(hosts[1]))
        with trio.fail_after(60):
            async with spliceway.LoadBalancer(kubeconfig=plane.limited_kubeconfig) as balancer:
                served = await balancer.serve_service("127.0.0.1:0", "default/shop:http")
                assert served.address.port != 0
                await wait_for_answers(served.address, {"a"})
                cluster.set_endpoints(name, endpoint(hosts[1]), endpoint(hosts[2]))
                await wait_for_answers(served.address, {"a", "b"})
                assert served.pool == "default/shop:http"
                assert served.statistics().flows >= 80
                assert balancer.problems() == ()
                with await trio.to_thread.run_sync(Flow, served.address) as flow:
                    answered = await trio.to_thread.run_sync(flow.ask)
                    await served.close()
                    await trio.to_thread.run_sync(wait_refused, served.address)
                    assert await trio.to_thread.run_sync(flow.ask) == answered
