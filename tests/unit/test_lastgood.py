"""A manifest that is edited badly: what was good stays, what is good of the edit counts, and the mistake is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from spliceway.model import EndpointSlice, Service
from spliceway.source.file import FileSource
from support.fold import Fold, folded

SHOP = """\
apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  clusterIP: 127.64.0.1
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: shop-1, labels: {kubernetes.io/service-name: shop}}
addressType: IPv4
ports: [{name: http, port: 9001}]
endpoints: [{addresses: [127.0.0.11]}, {addresses: [127.0.0.12]}]
"""


def service(name: str, port: int = 80) -> str:
    return (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n"
        f"spec: {{clusterIP: 127.64.0.1, ports: [{{port: {port}}}]}}\n"
    )


def ports(fold: Fold) -> dict[str, int]:
    return {made.key.name: made.ports[0].port for made in fold.objects.values() if isinstance(made, Service)}


async def test_bad_object_keeps_its_last_good_version(tmp_path: Path) -> None:
    """Lost: the other objects' edits, or the bad object's service, in a file that is well-formed."""
    path = tmp_path / "a.yaml"
    path.write_text(service("a") + "---\n" + service("b"))
    async with folded(FileSource([path])) as fold:
        path.write_text(service("a").replace("spec:", "spec: {type: Wrong}\nspare:") + "---\n" + service("b", 81))
        await fold.until(lambda: ports(fold) == {"a": 80, "b": 81})
        await fold.until(lambda: bool(fold.said()))
        assert fold.said()[0].endswith("; keeping its last good version")
        path.write_text(service("b", 82))
        await fold.until(lambda: ports(fold) == {"b": 82} and not fold.said())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "port: 80}",
            "port: 0}",
            ":6: Service default/shop: spec.ports[0].port: 0 is not a port number (1 to 65535); k",
        ),
        ("127.64.0.1", "127.64.0.x", ":5: Service default/shop: spec.clusterIP: '127.64.0.x' is not an IP address; k"),
        ("127.64.0.1", "0.0.0.0", "0.0.0.0 is not an address that clients can dial; keeping its last good version"),
        ("port: 9001", 'port: "9001"', "ports[0].port: expected a whole number, got a text; keeping its last good"),
        ("[127.0.0.12]", "[127.0.0.x]", "endpoints[1].addresses[0]: '127.0.0.x' is not the address of an endpoint"),
        ("metadata: {name: shop}", "metadata: {name: Shop}", "metadata.name: 'Shop' is not a name"),
        ("metadata: {name: shop}", "metadata: {nam: shop}", "metadata.name: is missing"),
        ("kind: Service\n", "kind: Servce\n", ":2: Servce default/shop: kind: v1 Servce is not known; did you mean"),
        ("kind: Service\n", "knd: Service\n", "kind: is missing"),
        ("spec:", "specs:", "spec: is missing; keeping its last good version"),
        ("kind: Service\n", "kind: Service\nkind: Service\n", "key 'kind' is written twice; keeping its last good"),
    ],
)
async def test_broken_edit_of_an_object_changes_nothing(tmp_path: Path, old: str, new: str, said: str) -> None:
    """Lost: one mistyped field, name or kind would refuse all clients at once."""
    path = tmp_path / "a.yaml"
    path.write_text(SHOP)
    async with folded(FileSource([path])) as fold:
        good = dict(fold.objects)
        assert len(good) == 2
        assert old in SHOP
        path.write_text(SHOP.replace(old, new, 1))
        await fold.until(lambda: bool(fold.said()))
        assert fold.objects == good
        assert said in fold.said()[0]
        assert "left out" not in fold.said()[0]
        path.write_text(SHOP.replace("port: 80}", "port: 81}"))
        await fold.until(lambda: ports(fold) == {"shop": 81} and not fold.said())


async def test_removal_waits_until_the_file_is_sound(tmp_path: Path) -> None:
    """Lost: a Service whose name was mistyped would be taken for removed; or one that was removed stay for ever."""
    path = tmp_path / "a.yaml"
    path.write_text("---\n".join(service(name) for name in "abcde"))
    async with folded(FileSource([path])) as fold:
        path.write_text(service("A") + "---\n" + service("e", 81))
        await fold.until(lambda: len(fold.said()) == 2)
        assert ports(fold) == {"a": 80, "b": 80, "c": 80, "d": 80, "e": 81}
        missing = "Service default/a, Service default/b, Service default/c and 1 more cannot be found in it any more"
        assert fold.said()[1] == f"{path}: {missing}; kept until its errors are mended"
        path.write_text(service("e", 81))
        await fold.until(lambda: ports(fold) == {"e": 81} and not fold.said())


async def test_new_object_is_used_as_far_as_it_is_good(tmp_path: Path) -> None:
    """Lost: a Service that was just added would serve nothing for one bad endpoint: there is no version to keep."""
    path = tmp_path / "a.yaml"
    path.write_text(service("a"))
    async with folded(FileSource([path])) as fold:
        path.write_text(service("a") + "---\n" + SHOP.replace("127.0.0.12", "nowhere"))
        await fold.until(lambda: len(fold.objects) == 3 and bool(fold.said()))
        assert [
            [endpoint.address for endpoint in made.endpoints]
            for made in fold.objects.values()
            if isinstance(made, EndpointSlice)
        ] == [["127.0.0.11"]]
        assert fold.said()[0].endswith("; this endpoint is left out")
