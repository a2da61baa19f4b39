"""The control plane of the cluster tests does what it promises: without that, no other test here means anything."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .api import Api, ApiError, ApiUnreachableError, Object
from .controlplane import ControlPlane, ControlPlaneError

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane")) as plane:
        yield plane


def service(name: str, address: str) -> Object:
    return {
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"clusterIP": address, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
    }


def endpoint_slice(service_name: str, address: str) -> Object:
    return {
        "kind": "EndpointSlice",
        "metadata": {"name": f"{service_name}-1", "labels": {"kubernetes.io/service-name": service_name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
    }


def names(api: Api, kind: str) -> list[str]:
    return sorted(item["metadata"]["name"] for item in api.list_objects(kind))


def test_objects_live_from_create_to_delete(plane: ControlPlane) -> None:
    with Api(plane.kubeconfig) as api:
        created = api.create(service("life", "127.64.1.1"))
        api.create(endpoint_slice("life", "198.18.0.9"))
        assert created["spec"]["clusterIPs"] == ["127.64.1.1"]
        assert "life" in names(api, "Service")
        assert "life-1" in names(api, "EndpointSlice")

        created["spec"]["ports"][0]["port"] = 81
        assert api.replace(created)["spec"]["ports"][0]["port"] == 81
        patched = api.patch("EndpointSlice", "life-1", {"endpoints": [{"addresses": ["198.18.0.10"]}]})
        assert patched["endpoints"][0]["addresses"] == ["198.18.0.10"]

        api.delete("EndpointSlice", "life-1")
        api.delete("Service", "life")
        with pytest.raises(ApiError) as refusal:
            api.get("Service", "life")
        assert (refusal.value.status, refusal.value.reason) == (404, "NotFound")


def test_the_api_server_takes_no_endpoint_on_loopback(plane: ControlPlane) -> None:
    with Api(plane.kubeconfig) as api, pytest.raises(ApiError, match="loopback") as refusal:
        api.create(endpoint_slice("loop", "127.0.0.9"))
    assert refusal.value.status == 422


def test_the_limited_user_reads_only_what_its_rules_name(plane: ControlPlane) -> None:
    with Api(plane.limited_kubeconfig) as limited:
        assert "kubernetes" in names(limited, "Service")
        limited.list_objects("EndpointSlice")
        limited.list_objects("Node")
        with pytest.raises(ApiError) as unread:
            limited.list_objects("Pod")
        with pytest.raises(ApiError) as unwritten:
            limited.create(service("unwritten", "127.64.1.2"))
    assert (unread.value.status, unwritten.value.status) == (403, 403)


def test_an_unknown_token_is_refused(plane: ControlPlane) -> None:
    with Api(plane.refused_kubeconfig) as refused, pytest.raises(ApiError) as refusal:
        refused.list_objects("Service")
    assert refusal.value.status == 401


def test_objects_outlive_a_crash_and_a_restart_on_the_same_port(plane: ControlPlane) -> None:
    with Api(plane.kubeconfig) as api, Api(plane.limited_kubeconfig) as limited:
        api.create(service("durable", "127.64.1.3"))
        plane.kill_apiserver()
        assert not api.ready()
        with pytest.raises(ApiUnreachableError):
            api.list_objects("Service")
        plane.start_apiserver()
        assert "durable" in names(limited, "Service")
        plane.restart_apiserver()
        assert "durable" in names(limited, "Service")
        api.delete("Service", "durable")


def test_a_failed_start_shows_the_log_and_leaves_nothing(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path, apiserver_flags=["--no-such-flag"])
    with pytest.raises(ControlPlaneError, match=r"kube-apiserver ended with code 1[\s\S]*unknown flag: --no-such-flag"):
        plane.start()
    assert processes_that_name(tmp_path) == []


OWNER = """
import signal, sys
from pathlib import Path
from cluster.controlplane import ControlPlane
with ControlPlane(Path(sys.argv[1])):
    print("up", flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_process_that_started_it(tmp_path: Path, how: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as owner:
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"up\n"
            assert len(processes_that_name(tmp_path)) == 3  # the owner and its two servers
            owner.send_signal(how)
            owner.wait(10)
        finally:
            owner.kill()
    deadline = time.monotonic() + 10
    while processes_that_name(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_that_name(tmp_path) == []


def processes_that_name(directory: Path) -> list[int]:
    """Return the ids of the processes with the directory in their command line; a zombie has no command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if os.fsencode(directory) in command:
            found.append(int(entry.name))
    return found
