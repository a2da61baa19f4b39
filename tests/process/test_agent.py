"""The agent as users run it: a process that gets signals, edits of its files, and taken ports."""

from __future__ import annotations

import resource
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from spliceway.model import Address
from spliceway.observe.state import AgentState
from support.agentprocess import AgentProcess, EchoBackend, cli, free_vip, manifest, round_trip


def write(path: Path, text: str) -> Path:
    """Replace a file as editors do."""
    draft = path.with_name(".draft")
    draft.write_text(text)
    draft.replace(path)
    return path


def ready_endpoints(number: int) -> Callable[[AgentState], bool]:
    return lambda state: state.ready and sum(row.ready for row in state.services) == number


def test_sigterm_lets_a_flow_end_and_takes_no_new_one(tmp_path: Path) -> None:
    """A rolling update of the agent would cut every request that is under way."""
    with EchoBackend() as backend:
        vip = free_vip()
        path = write(tmp_path / "shop.yaml", manifest(vip, backend.address))
        with AgentProcess(tmp_path, "--manifests", str(path)) as agent:
            agent.wait_ready()
            with socket.create_connection(vip, timeout=20) as flow:
                flow.sendall(b"before")
                assert flow.recv(100) == b"before"
                agent.signal(signal.SIGTERM)
                agent.wait(lambda state: state.draining)
                with pytest.raises(ConnectionRefusedError):
                    wait_refused(vip)
                flow.sendall(b"after")
                assert flow.recv(100) == b"after"
                assert agent.process.poll() is None
            assert agent.wait_exit() == 0
            assert not agent.socket.exists()
            assert "Traceback" not in agent.log


def wait_refused(address: Address) -> None:
    """Connect until that is refused: the listener closes a moment after the agent says that it drains."""
    for _ in range(500):
        socket.create_connection(address, timeout=20).close()
        time.sleep(0.01)


def test_second_sigterm_ends_at_once(tmp_path: Path) -> None:
    """An operator in a hurry would have to use SIGKILL."""
    with EchoBackend() as backend:
        vip = free_vip()
        path = write(tmp_path / "shop.yaml", manifest(vip, backend.address))
        with AgentProcess(tmp_path, "--manifests", str(path), "--shutdown-deadline", "10m") as agent:
            agent.wait_ready()
            with socket.create_connection(vip, timeout=20) as flow:
                flow.sendall(b"x")
                assert flow.recv(1) == b"x"
                agent.signal(signal.SIGTERM)
                agent.wait(lambda state: state.draining)
                agent.signal(signal.SIGTERM)
                assert agent.wait_exit() == 0


def test_shutdown_deadline_cuts_what_is_left(tmp_path: Path) -> None:
    """One idle connection would hold the agent until the kubelet kills it, with everything else that is open."""
    with EchoBackend() as backend:
        vip = free_vip()
        path = write(tmp_path / "shop.yaml", manifest(vip, backend.address))
        with AgentProcess(tmp_path, "--manifests", str(path), "--shutdown-deadline", "0.2") as agent:
            agent.wait_ready()
            with socket.create_connection(vip, timeout=20) as flow:
                flow.sendall(b"x")
                assert flow.recv(1) == b"x"
                agent.signal(signal.SIGINT)
                assert agent.wait_exit() == 0
                with suppress(ConnectionResetError):
                    assert flow.recv(1) == b""


def test_taken_port_is_reported_and_the_others_serve(tmp_path: Path) -> None:
    """One conflict on a node would take every Service of it down."""
    with EchoBackend() as backend:
        vip, taken = free_vip(), free_vip()
        with socket.create_server(taken) as holder:
            text = manifest(vip, backend.address) + "---\n" + manifest(taken, backend.address, name="other")
            path = write(tmp_path / "shop.yaml", text)
            with AgentProcess(tmp_path, "--manifests", str(path)) as agent:
                state = agent.wait(lambda state: state.ready and bool(state.problems))
                assert round_trip(vip) == b"ping"
                problem = str(state.problems[0])
                assert str(taken) in problem
                assert "in use" in problem
                states = {row.pool: row.state for row in state.services}
                assert states == {"default/shop:http": "serving", "default/other:http": "failed"}
                holder.close()
                agent.wait(lambda state: not state.problems)
                assert round_trip(taken) == b"ping"


def test_broken_edit_keeps_the_last_state_and_says_where(tmp_path: Path) -> None:
    """A typo in a manifest would end the traffic of all Services in it."""
    with EchoBackend() as backend:
        vip = free_vip()
        good = manifest(vip, backend.address)
        path = write(tmp_path / "shop.yaml", good)
        with AgentProcess(tmp_path, "--manifests", str(path)) as agent:
            agent.wait_ready()
            write(path, good.replace("spec:\n", "spec: [\n"))
            state = agent.wait(lambda state: bool(state.problems))
            assert state.problems[0].origin == str(path)
            assert state.problems[0].line
            assert round_trip(vip) == b"ping"
            write(path, good + "---\n" + manifest(free_vip(), backend.address, name="second"))
            agent.wait(lambda state: not state.problems and ready_endpoints(2)(state))
            assert round_trip(vip) == b"ping"


def test_endpoint_removed_from_the_file_gets_no_new_connection(tmp_path: Path) -> None:
    """A Pod that was taken out would go on getting clients."""
    with EchoBackend() as backend:
        vip = free_vip()
        gone = Address("127.0.0.2", backend.address.port)
        path = write(tmp_path / "shop.yaml", manifest(vip, backend.address, gone))
        with AgentProcess(tmp_path, "--manifests", str(path)) as agent:
            agent.wait(ready_endpoints(2))
            write(path, manifest(vip, backend.address))
            agent.wait(ready_endpoints(1))
            before = agent.state().services[0].retries
            for _ in range(20):
                assert round_trip(vip) == b"ping"
            assert agent.state().services[0].retries == before
            write(path, manifest(vip))
            agent.wait(lambda state: state.services[0].state == "rejecting")
            with pytest.raises(ConnectionRefusedError):
                round_trip(vip)


def test_dead_backend_is_set_aside_and_clients_do_not_notice(tmp_path: Path) -> None:
    """Every third client would wait for a retry, or see an error, until somebody removed the Pod."""
    with EchoBackend() as backend:
        vip = free_vip()
        dead = Address("127.0.0.2", backend.address.port)
        path = write(tmp_path / "shop.yaml", manifest(vip, backend.address, dead))
        with AgentProcess(tmp_path, "--manifests", str(path)) as agent:
            agent.wait(ready_endpoints(2))
            for _ in range(40):
                assert round_trip(vip) == b"ping"
            state = agent.wait(lambda state: bool(state.unhealthy))
            assert [row.backend for row in state.unhealthy] == [str(dead)]
            assert "refused" in state.unhealthy[0].reason
            row = state.services[0]
            assert row.saved >= 1
            assert row.errors == 0


def test_admin_over_tcp(tmp_path: Path) -> None:
    """The kubelet's probes and Prometheus would find nobody."""
    with EchoBackend() as backend:
        health, metrics, vip = free_vip(), free_vip(), free_vip()
        path = write(tmp_path / "shop.yaml", manifest(vip, backend.address))
        admin = ("--healthz-bind-address", str(health), "--metrics-bind-address", str(metrics))
        with AgentProcess(tmp_path, "--manifests", str(path), *admin) as agent:
            agent.wait_ready()
            assert round_trip(vip) == b"ping"
            assert get(health, "/readyz")[0] == 200
            assert get(health, "/livez")[0] == 200
            status, body = get(health, "/healthz")
            assert (status, "lastUpdated" in body) == (200, True)
            assert get(health, "/state")[0] == 404
            assert get(metrics, "/proxyMode") == (200, "spliceway")
            status, body = get(metrics, "/metrics")
            assert status == 200
            assert 'kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv4"} 1.0' in body
            flows = 'spliceway_flows_total{namespace="default",port="http",service="shop"} 1.0'
            assert flows in body
            assert "process_resident_memory_bytes" in body


def get(address: Address, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=20) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_status_and_explain_ask_the_agent(tmp_path: Path) -> None:
    """Nobody could see what the agent does."""
    with EchoBackend() as backend:
        vip = free_vip()
        dead = Address("127.0.0.2", backend.address.port)
        path = write(tmp_path / "shop.yaml", manifest(vip, backend.address, dead) + "---\nkind: Nonsense\n")
        # Without health checks, so that the dead backend keeps its place between two questions.
        with AgentProcess(tmp_path, "--manifests", str(path), "--health", "off") as agent:
            agent.wait(ready_endpoints(2))
            assert round_trip(vip) == b"ping"
            where = ("--state-socket", str(agent.socket))
            status = cli("status", *where)
            assert status.returncode == 0, status.stderr
            assert "default/shop:http" in status.stdout
            assert str(vip) in status.stdout
            assert "Nonsense" in status.stdout  # the problem is below the table
            rated = cli("status", "--interval", "100ms", SPLICEWAY_STATE_SOCKET=str(agent.socket))
            assert "flows/s" in rated.stdout

            explained = cli("explain", str(vip), "--client", "10.1.2.3:4567", *where)
            assert explained.returncode == 0, explained.stderr
            assert "10.1.2.3:4567" in explained.stdout
            assert str(backend.address) in explained.stdout
            assert str(dead) in explained.stdout
            assert explained.stdout == cli("explain", str(vip), "--client", "10.1.2.3:4567", *where).stdout

            nowhere = cli("explain", "127.64.0.10:1", "--client", "10.1.2.3", *where)
            assert nowhere.returncode == 1
            assert nowhere.stderr.startswith("Error: Nothing is served at 127.64.0.10:1")


def test_second_agent_on_the_same_socket_says_so(tmp_path: Path) -> None:
    """Two agents would fight for the same addresses."""
    with EchoBackend() as backend:
        path = write(tmp_path / "shop.yaml", manifest(free_vip(), backend.address))
        with AgentProcess(tmp_path, "--manifests", str(path)) as agent:
            agent.wait_ready()
            second = cli(
                "run",
                "--manifests",
                str(path),
                "--healthz-bind-address",
                "off",
                "--metrics-bind-address",
                "off",
                "--state-socket",
                str(agent.socket),
                "--log-level",
                "error",
            )
            assert second.returncode == 1
            assert "another agent answers there" in second.stderr
            assert "Traceback" not in second.stderr
            assert agent.state().ready


def test_status_answers_while_clients_hold_all_flows(tmp_path: Path) -> None:
    """Whoever opens enough connections would hide from the operator what is going on, and fill the log."""
    with EchoBackend() as backend:
        vip = free_vip()
        path = write(tmp_path / "shop.yaml", manifest(vip, backend.address))
        with AgentProcess(tmp_path, "--manifests", str(path)) as agent, ExitStack() as stack:
            resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE, (64, 64))  # while it still imports
            agent.wait_ready()
            for _ in range(60):
                flow = stack.enter_context(socket.create_connection(vip, timeout=20))
                flow.sendall(b"x")
            state = agent.wait(lambda state: state.paused)
            assert 0 < state.flows < 32
            assert "64 open files" in agent.log
            assert "Traceback" not in agent.log
            status = cli("status", "--state-socket", str(agent.socket))
            assert "PAUSED" in status.stdout


def test_gateway_binds_only_what_it_is_told(tmp_path: Path) -> None:
    """A gateway without privileges would try to take the ClusterIPs."""
    with EchoBackend() as backend:
        vip, own = free_vip(), free_vip()
        path = write(tmp_path / "shop.yaml", manifest(vip, backend.address))
        listen = f"{own}=default/shop:http"
        with AgentProcess(tmp_path, "--manifests", str(path), "--listen", listen) as agent:
            agent.wait_ready()
            assert round_trip(own) == b"ping"
            with pytest.raises(ConnectionRefusedError):
                round_trip(vip)
