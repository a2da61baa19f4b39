"""Services and EndpointSlices of the API lead to traffic, and every change of them to what users expect of it."""

from __future__ import annotations

import pytest

from spliceway.model import Address
from support.agentprocess import AgentProcess

from .cluster import PROXY_NAME, Cluster, endpoint, has_none, http_status, metric, row_of, wait_served
from .traffic import Backend, Flow, Stream, ask, ask_many, refused, wait_refused

pytestmark = pytest.mark.cluster

REPLAY = {"spliceway.io/replay": "true"}


def test_services_are_served_at_their_cluster_ips(
    cluster: Cluster, agent: AgentProcess, hosts: tuple[str, ...]
) -> None:
    """Nothing of a cluster would be reachable, or clients would get another Service's Pods."""
    with (
        Backend("shop-a", hosts[1]) as shop_a,
        Backend("shop-b", hosts[2]) as shop_b,
        Backend("admin", hosts[1], 9090) as admin,
        Backend("news", hosts[3], 7070) as news,
    ):
        shop_ip = cluster.service("shop", {"http": 80, "admin": 81})
        news_ip = cluster.service("news")
        # Two slices are one set of endpoints, and each slice has its own port number (E-03).
        cluster.slice("shop", endpoint(shop_a.host), ports={"http": shop_a.port, "admin": admin.port})
        cluster.slice("shop", endpoint(shop_b.host), ports={"http": shop_b.port})
        cluster.slice("news", endpoint(news.host), ports={"http": news.port})
        wait_served(agent, Address(shop_ip, 80), shop_a.host, shop_b.host)
        wait_served(agent, Address(shop_ip, 81), admin.host, port=admin.port)
        wait_served(agent, Address(news_ip, 80), news.host, port=news.port)
        assert ask_many(Address(shop_ip, 80)) == {"shop-a", "shop-b"}
        assert ask_many(Address(shop_ip, 81), 10) == {"admin"}
        assert ask_many(Address(news_ip, 80), 10) == {"news"}
        cluster.api.patch("Service", "news", {"spec": {"ports": [{"name": "http", "port": 8000}]}})
        wait_refused(Address(news_ip, 80))
        wait_served(agent, Address(news_ip, 8000), news.host, port=news.port)
        assert ask(Address(news_ip, 8000)) == "news"


def test_only_usable_endpoints_get_clients(cluster: Cluster, agent: AgentProcess, hosts: tuple[str, ...]) -> None:
    """Clients would be sent to Pods that start, that end, or that belong to another port."""
    with (
        Backend("ready", hosts[1]),
        Backend("unready", hosts[2]),
        Backend("ending", hosts[3]),
        Backend("other-port", hosts[4]),
        Backend("other-service", hosts[5]),
    ):
        address = Address(cluster.service("shop"), 80)
        ending = endpoint(hosts[3], ready=False, serving=True, terminating=True)
        unready = endpoint(hosts[2], ready=False)
        name = cluster.slice("shop", endpoint(hosts[1]), unready, ending)
        cluster.slice("shop", endpoint(hosts[4]), ports={"metrics": 8080})
        cluster.slice("nobody", endpoint(hosts[5]))
        wait_served(agent, address, hosts[1])
        row = row_of(agent.state(), "shop:http")
        assert row is not None
        assert (row.terminating, row.unready) == (1, 1)
        assert ask_many(address) == {"ready"}
        cluster.set_endpoints(name, unready, ending)  # the last resort: Pods that end but still serve (T-03)
        wait_served(agent, address, hosts[3])
        assert ask_many(address) == {"ending"}
        cluster.set_endpoints(name, endpoint(hosts[2]), ending)
        wait_served(agent, address, hosts[2])
        assert ask_many(address) == {"unready"}  # that is its name; it is ready now


def test_services_that_are_not_ours_are_left_alone(
    cluster: Cluster, agent: AgentProcess, hosts: tuple[str, ...]
) -> None:
    """The agent would fight with another proxy for a Service, or open addresses that nobody asked for."""
    with Backend("shop", hosts[1]) as backend:
        cluster.service("headless", clusterIP="None")
        cluster.service("elsewhere", type="ExternalName", externalName="shop.example.com")
        address = Address(cluster.service("theirs", labels={PROXY_NAME: "other"}), 80)
        for name in ("headless", "elsewhere", "theirs"):
            cluster.slice(name, endpoint(backend.host))
        ours = Address(cluster.service("ours"), 80)
        cluster.slice("ours", endpoint(backend.host))
        wait_served(agent, ours, backend.host)  # made last, so all others have been seen
        assert ask(ours) == "shop"
        state = agent.state()
        for name in ("headless", "elsewhere", "theirs"):
            assert has_none(f"{name}:http")(state), name
        assert refused(address)

        cluster.api.patch("Service", "theirs", {"metadata": {"labels": {PROXY_NAME: None}}})
        wait_served(agent, address, backend.host)
        assert ask(address) == "shop"
        cluster.api.patch("Service", "theirs", {"metadata": {"labels": {PROXY_NAME: "other"}}})
        agent.wait(has_none("theirs:http"))
        wait_refused(address)


def test_killed_backend_costs_no_client_an_error(cluster: Cluster, agent: AgentProcess, hosts: tuple[str, ...]) -> None:
    """Every Pod that dies would break the requests that it held and those that come until Kubernetes notices."""
    with (
        Backend("a", hosts[1], seconds=0.01) as first,
        Backend("b", hosts[2], seconds=0.01) as second,
        Backend("c", hosts[3], seconds=0.01),
    ):
        address = Address(cluster.service("shop", annotations=REPLAY), 80)
        cluster.slice("shop", *(endpoint(host) for host in hosts[1:4]))
        wait_served(agent, address, *hosts[1:4])
        with Stream(address, clients=6, pause=0.002) as stream:
            for backend in (first, second):
                stream.wait_for_answer_of(backend.name)
                backend.kill()
                state = agent.wait(lambda state: bool(state.unhealthy))
                assert [row.backend for row in state.unhealthy] == [str(backend.address)]
                stream.wait_for_more(100)
                backend.start()
                stream.wait_for_answer_of(backend.name)
                agent.wait(lambda state: not state.unhealthy)
        assert stream.errors == []
        row = row_of(agent.state(), "shop:http")
        assert row is not None
        assert row.saved > 0
        assert row.errors == 0
        assert metric("spliceway_saved_flows_total", ['service="shop"']) == row.saved
        assert metric("spliceway_failed_flows_total") == 0


def test_removed_endpoint_drains(cluster: Cluster, agent: AgentProcess, hosts: tuple[str, ...]) -> None:
    """A rolling update would cut the connections of every Pod that it takes out, or go on filling it."""
    places = {"a": hosts[1], "b": hosts[2]}
    with Backend("a", places["a"]), Backend("b", places["b"]):
        address = Address(cluster.service("shop"), 80)
        name = cluster.slice("shop", *map(endpoint, places.values()))
        wait_served(agent, address, *places.values())
        with Flow(address) as flow:
            goes = flow.ask()
            stays = "b" if goes == "a" else "a"
            with Stream(address) as stream:
                stream.wait_for_answer_of(goes)
                cluster.set_endpoints(name, endpoint(places[stays]))
                wait_served(agent, address, places[stays])
                assert ask_many(address) == {stays}
                stream.wait_for_more(50)
            assert stream.errors == []
            assert flow.ask() == goes
            row = row_of(agent.state(), "shop:http")
            assert row is not None
            draining = [each.address for each in row.backends if each.draining]
            assert draining == [f"{places[goes]}:8080"]


def test_deleted_service_refuses_and_lets_flows_end(
    cluster: Cluster, agent: AgentProcess, hosts: tuple[str, ...]
) -> None:
    """Clients of a Service that is gone would hang instead of failing at once, or running transfers would be cut."""
    with Backend("a", hosts[1]):
        address = Address(cluster.service("shop"), 80)
        cluster.slice("shop", endpoint(hosts[1]))
        wait_served(agent, address, hosts[1])
        with Flow(address) as flow:
            assert flow.ask("before") == "a"
            cluster.delete("Service", "shop")
            wait_refused(address)
            assert flow.ask("after") == "a"
            assert cluster.service("shop", clusterIP=address.host) == address.host
            wait_served(agent, address, hosts[1])
            assert ask(address) == "a"
            assert flow.ask("long after") == "a"


def test_service_without_endpoints_refuses_until_there_are_some(
    cluster: Cluster, agent: AgentProcess, hosts: tuple[str, ...]
) -> None:
    """Clients of a Service that is scaled to zero would hang, or it would not come back when scaled up."""
    with Backend("a", hosts[1]) as backend:
        address = Address(cluster.service("shop"), 80)
        agent.wait(lambda state: bool((row := row_of(state, "shop:http")) and row.state == "rejecting"))
        assert refused(address)
        name = cluster.slice("shop", endpoint(backend.host))
        wait_served(agent, address, backend.host)
        assert ask(address) == "a"
        with Flow(address) as flow:
            assert flow.ask() == "a"
            cluster.set_endpoints(name)
            wait_refused(address)
            assert flow.ask() == "a"
        cluster.set_endpoints(name, endpoint(backend.host))
        wait_served(agent, address, hosts[1])
        assert ask(address) == "a"
        cluster.delete("EndpointSlice", name)
        wait_refused(address)
        assert http_status("/readyz") == 200
