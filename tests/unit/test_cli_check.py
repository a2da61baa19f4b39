"""`spliceway check` finds what would go wrong, and says where."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from spliceway.cli.main import cli

GOOD = """\
apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  clusterIP: 127.64.0.10
  ports: [{name: http, port: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: shop-1, labels: {kubernetes.io/service-name: shop}}
addressType: IPv4
ports: [{name: http, port: 9001}]
endpoints: [{addresses: [127.0.0.11]}, {addresses: [127.0.0.12], conditions: {ready: false}}]
"""


def check(*paths: Path) -> tuple[int, list[str]]:
    result = CliRunner().invoke(cli, ["check", *map(str, paths)])
    return result.exit_code, result.output.splitlines()


def test_good_manifest(tmp_path: Path) -> None:
    """A correct manifest would be refused in somebody's pipeline."""
    (tmp_path / "a.yaml").write_text(GOOD)
    assert check(tmp_path) == (0, ["1 Service, 2 endpoints, 1 frontend; 0 errors, 0 warnings"])


def test_folder_and_fifo(tmp_path: Path) -> None:
    """A folder that is called like a manifest would be an error, and a FIFO hang the pipeline."""
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "old.yaml").mkdir()
    os.mkfifo(tmp_path / "f.yaml")
    code, lines = check(tmp_path)
    assert code == 1
    assert lines[0] == f"{tmp_path / 'f.yaml'}: cannot be read: it is not a regular file"
    assert lines[1].endswith("; 1 error, 0 warnings")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("http, port: 9001", "web, port: 9001", "no EndpointSlice has a port named 'http' (TCP); they have 'web'"),
        (GOOD[GOOD.index("---") :], "", "has no EndpointSlice: its clients are refused"),
    ],
)
def test_service_that_would_refuse_is_a_warning(tmp_path: Path, old: str, new: str, says: str) -> None:
    """A Service that nobody answers for would look fine."""
    path = tmp_path / "a.yaml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    code, lines = check(path)
    assert code == 0
    assert len(lines) == 2
    assert lines[0].startswith(f"{path}:1: warning: Service default/shop: {says}")


def test_misspelt_kind_is_an_error(tmp_path: Path) -> None:
    """The Service would not exist, and the pipeline be green."""
    path = tmp_path / "a.yaml"
    path.write_text(GOOD.replace("kind: Service", "kind: Servce"))
    code, lines = check(path)
    assert code == 1
    assert lines[0] == f"{path}:2: Servce default/shop: kind: v1 Servce is not known; did you mean v1 Service?"


def test_folder_is_read_as_run_reads_it(tmp_path: Path) -> None:
    """Editors' backup files would be errors, or files that `run` reads would not be checked."""
    for name in ("a.yml", "b.json"):
        (tmp_path / name).write_text(GOOD.replace("shop", name[0]).replace("0.10", f"0.{ord(name[0])}"))
    (tmp_path / "b.json").write_text("{ not json")
    (tmp_path / ".hidden.yaml").write_text("[")
    (tmp_path / "notes.txt").write_text("[")
    code, lines = check(tmp_path)
    assert code == 1
    assert len(lines) == 2
    assert lines[0].startswith(f"{tmp_path / 'b.json'}:1: ")
    assert lines[1].startswith("1 Service, 2 endpoints, 1 frontend; 1 error")


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("port: 8080", "port: 0", 6, "spec.ports[0].port"),
        ("127.64.0.10", "127.64.0.999", 5, "spec.clusterIP"),
        ("[127.0.0.11]", "[shop.local]", 13, "endpoints[0].addresses[0]"),
        ("spec:", "spec: ]", 4, ""),
    ],
)
def test_error_has_file_line_and_field(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    """The user would have to search the file."""
    path = tmp_path / "a.yaml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    code, lines = check(path)
    assert code == 1
    assert lines[0].startswith(f"{path}:{line}: ")
    assert says in lines[0]


def test_kinds_that_are_not_ours_are_named_and_fine(tmp_path: Path) -> None:
    """A chart's Deployment would fail the check."""
    path = tmp_path / "a.yaml"
    path.write_text(GOOD + "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: shop}\n")
    code, lines = check(path)
    assert code == 0
    assert lines[0].startswith(f"{path}:15: warning: Deployment default/shop")
    assert lines[-1].endswith("0 errors, 1 warning")


def test_two_services_of_one_address(tmp_path: Path) -> None:
    """The conflict would be found in production (S-14)."""
    path = tmp_path / "a.yaml"
    path.write_text(GOOD + "---\n" + GOOD.replace("shop", "twin"))
    code, lines = check(path)
    assert code == 1
    assert lines[0].startswith(
        f"{path}:15: Service default/twin: asks for 127.64.0.10:8080, which Service default/shop"
    )


def test_loop(tmp_path: Path) -> None:
    """A flow that goes round in circles would be found in production."""
    path = tmp_path / "a.yaml"
    path.write_text(GOOD.replace("[127.0.0.11]", "[127.64.0.10]").replace("port: 9001", "port: 8080"))
    code, lines = check(path)
    assert code == 1
    assert "a loop" in lines[0]


def test_the_same_object_in_two_files(tmp_path: Path) -> None:
    """Which of two files counts would be a surprise."""
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(GOOD)
    code, lines = check(tmp_path)
    assert code == 1
    assert any("Service default/shop" in line and "a.yaml" in line and "b.yaml" in line for line in lines)


def test_slice_without_its_service_is_a_warning(tmp_path: Path) -> None:
    """A typo in the label would look fine, and the Service would have no endpoint."""
    path = tmp_path / "a.yaml"
    path.write_text(GOOD.replace("service-name: shop", "service-name: shpo"))
    code, lines = check(path)
    assert code == 0
    assert lines[0].startswith(f"{path}:8: warning: EndpointSlice default/shop-1: belongs to Service default/shpo")


def test_unknown_annotation_is_a_warning_at_the_service(tmp_path: Path) -> None:
    """A misspelt tuning would silently do nothing."""
    path = tmp_path / "a.yaml"
    path.write_text(GOOD.replace("{name: shop}", "{name: shop, annotations: {spliceway.io/balanse: p2c}}", 1))
    code, lines = check(path)
    assert code == 0
    assert lines[0].startswith(f"{path}:1: warning: Service default/shop: metadata.annotations[spliceway.io/balanse]")


def test_unreadable_file_is_one_line(tmp_path: Path) -> None:
    """One bad file would hide the problems of the others."""
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00kind")
    (tmp_path / "b.yaml").write_text(GOOD.replace("8080", "0"))
    code, lines = check(tmp_path)
    assert code == 1
    assert lines[0].startswith(f"{tmp_path / 'a.yaml'}:1: ")
    assert lines[1].startswith(f"{tmp_path / 'b.yaml'}:6: ")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("spec:\n", "spec:\n  externalIPs: [10.0.0.1, nowhere]\n", ":5: Service default/shop: spec.externalIPs[1]"),
        ("port: 8080}", "port: 8080, nodePort: 99999}", ":6: Service default/shop: spec.ports[0].nodePort"),
        ("spec:\n", "spec:\n  externalTrafficPolicy: local\n", ":5: Service default/shop: spec.externalTrafficPolicy"),
        (
            "spec:\n",
            "spec:\n  loadBalancerSourceRanges: [office]\n",
            ":5: Service default/shop: spec.loadBalancerSource",
        ),
        ("spec:\n", "status: {loadBalancer: [x]}\nspec:\n", ":4: Service default/shop: status.loadBalancer"),
        ("{ready: false}}", "{ready: false}, hints: x}", ":13: EndpointSlice default/shop-1: endpoints[1].hints"),
    ],
)
def test_how_a_service_is_reached_is_checked(tmp_path: Path, old: str, new: str, says: str) -> None:
    """A mistyped policy, range or node port would be found in production."""
    path = tmp_path / "a.yaml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    code, lines = check(path)
    assert code == 1
    assert lines[0].startswith(f"{path}{says}")


def test_node_is_checked_and_counts_as_known(tmp_path: Path) -> None:
    """A dump of a cluster, which holds Nodes, would be an error, or its Nodes never looked at."""
    path = tmp_path / "a.yaml"
    node = "---\napiVersion: v1\nkind: Node\nmetadata: {name: worker-1}\nspec: {podCIDRs: [10.244.1.0/24]}\n"
    path.write_text(GOOD + node)
    assert check(path) == (0, ["1 Service, 2 endpoints, 1 frontend; 0 errors, 0 warnings"])
    path.write_text(GOOD + node.replace("10.244.1.0/24", "10.244.1.0/99"))
    code, lines = check(path)
    assert code == 1
    assert lines[0] == f"{path}:18: Node worker-1: spec.podCIDRs[0]: '10.244.1.0/99' is not a CIDR; it is left out"
