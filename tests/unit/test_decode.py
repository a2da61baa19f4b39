"""Decoding of Services and EndpointSlices, rule by rule (S-.. and E-.. are kube-proxy's rules)."""

from __future__ import annotations

import json

import pytest

from spliceway.model import EndpointSlice, Kind, ObjectKey, Protocol, Service, ServicePortSpec, SliceEndpoint, SlicePort
from spliceway.source.address import canonical_address
from spliceway.source.decode import decode_json
from support.decoding import Json, both_ways, endpoint_slice, faults, made_service, made_slice, service


def test_service_fields() -> None:
    """Lost: the fields that the plan is made of."""
    value = service(
        {
            "type": "LoadBalancer",
            "clusterIPs": ["10.96.0.10", "FD00:0:0::000a"],
            "sessionAffinity": "ClientIP",
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53}],
        },
        resourceVersion="7",
        creationTimestamp="2026-01-01T00:00:00Z",
        labels={"service.kubernetes.io/service-proxy-name": "other"},
        annotations={"spliceway.io/replay": "true", "spliceway.io/balance": "p2c", "else": "x"},
    )
    decoded = both_ways(value)
    assert decoded.faults == ()
    assert decoded.resource_version == "7"
    assert decoded.object == Service(
        key=ObjectKey("default", "shop"),
        type="LoadBalancer",
        cluster_ips=("10.96.0.10", "fd00::a"),
        ports=(ServicePortSpec("dns", Protocol.UDP, 53), ServicePortSpec("dns-tcp", Protocol.TCP, 53)),
        session_affinity="ClientIP",
        proxy_name="other",
        tuning=(("balance", "p2c"), ("replay", "true")),
        resource_version="7",
        created="2026-01-01T00:00:00Z",
    )


@pytest.mark.parametrize(
    "spec", [{"clusterIP": "None"}, {"clusterIP": "None", "clusterIPs": ["None"]}, {"clusterIP": ""}]
)
def test_s03_service_without_address(spec: Json) -> None:
    """Lost: a headless Service would get a frontend, or a complaint although it is sound."""
    decoded = both_ways(service({**spec, "ports": []} if spec["clusterIP"] else spec))
    assert isinstance(decoded.object, Service)
    assert decoded.object.cluster_ips == ()
    assert decoded.faults == ()


def test_s03_external_name() -> None:
    """Lost: an ExternalName Service, which has no ports, would be called broken."""
    decoded = both_ways(service({"type": "ExternalName", "externalName": "example.com", "ports": None}))
    assert isinstance(decoded.object, Service)
    assert decoded.object.type == "ExternalName"
    assert decoded.faults == ()


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("172.30.0.041", "172.30.0.41"),
        ("010.000.0.1", "10.0.0.1"),
        ("203.0.113.000", "203.0.113.0"),
        ("0.0.0.0", "0.0.0.0"),
        ("255.255.255.255", "255.255.255.255"),
        ("2001:DB8::0001", "2001:db8::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("64:ff9b::192.0.2.033", "64:ff9b::c000:221"),
    ],
)
def test_s12_sloppy_addresses(text: str, canonical: str) -> None:
    """Lost: Services that kube-proxy serves would be dropped for the way their address is written."""
    assert canonical_address(text) == canonical


@pytest.mark.parametrize(
    "text",
    ["", "shop", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.4\n", "fe80::1%eth0", "1.2.3.-4", "٣.1.1.1", "0" * 9999],
)
def test_s12_what_is_no_address(text: str) -> None:
    """Lost: a frontend on an address that nobody meant."""
    with pytest.raises(ValueError, match=r"."):
        canonical_address(text)


def test_s12_bad_cluster_ip_is_named_and_the_other_stays() -> None:
    """Lost: one bad address of a dual-stack Service would take the good one with it."""
    decoded = both_ways(service({"clusterIPs": ["10.96.0.300", "fd00::1"]}))
    assert isinstance(decoded.object, Service)
    assert decoded.object.cluster_ips == ("fd00::1",)
    assert "'10.96.0.300' is not an IP address" in faults(decoded)["spec.clusterIPs[0]"]


@pytest.mark.parametrize(
    ("second", "path", "said"),
    [
        ({"name": "b", "port": 0}, "spec.ports[1].port", "0 is not a port number (1 to 65535)"),
        ({"name": "b", "port": 65536}, "spec.ports[1].port", "65536 is not a port number"),
        ({"name": "b", "port": -1}, "spec.ports[1].port", "-1 is not a port number"),
        ({"name": "b", "port": "81"}, "spec.ports[1].port", "expected a whole number, got a text"),
        ({"name": "b", "port": True}, "spec.ports[1].port", "expected a whole number, got true or false"),
        ({"name": "b"}, "spec.ports[1].port", "is missing"),
        ({"name": "a", "port": 81}, "spec.ports[1].name", "'a' is also the name of an earlier port"),
        ({"name": "b", "port": 80}, "spec.ports[1].port", "80 with protocol TCP is also an earlier port"),
        ({"port": 81}, "spec.ports[1].name", "is missing: each of several ports needs a name"),
        ({"name": "B_", "port": 81}, "spec.ports[1].name", "'B_' is not a port name"),
        ({"name": "b", "port": 81, "protocol": "tcp"}, "spec.ports[1].protocol", "'tcp' is none of TCP, UDP, SCTP"),
        ("http", "spec.ports[1]", "expected a mapping, got a text"),
    ],
)
def test_s13_bad_port_is_left_out(second: object, path: str, said: str) -> None:
    """Lost: one bad port would take the Service's good ports down, or nobody would say which one is bad."""
    decoded = both_ways(service({"ports": [{"name": "a", "port": 80}, second]}))
    assert isinstance(decoded.object, Service)
    assert decoded.object.ports == (ServicePortSpec("a", Protocol.TCP, 80),)
    assert list(faults(decoded)) == [path]
    assert said in faults(decoded)[path]
    assert "left out" in faults(decoded)[path]


def test_s13_same_number_with_tcp_and_udp() -> None:
    """Lost: DNS, which has both."""
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    assert len(made_service(service({"ports": ports})).ports) == 2


def test_single_port_needs_no_name() -> None:
    """Lost: the simplest Service there is."""
    assert made_service(service({"ports": [{"port": 80}]})).ports == (ServicePortSpec("", Protocol.TCP, 80),)


@pytest.mark.parametrize(
    ("change", "path", "said"),
    [
        ({"spec": None}, "spec", "is missing"),
        ({"spec": []}, "spec", "expected a mapping"),
        ({"metadata": None}, "metadata", "is missing"),
        ({"metadata": {"namespace": "x"}}, "metadata.name", "is missing"),
        ({"metadata": {"name": "shop"}}, "metadata.namespace", "is missing"),
        ({"metadata": {"name": "a/b", "namespace": "x"}}, "metadata.name", "'a/b' is not a name"),
        ({"metadata": {"name": 5, "namespace": "x"}}, "metadata.name", "expected a text, got a whole number"),
        ({"spec": {"type": "Cluster"}}, "spec.type", "'Cluster' is none of ClusterIP, NodePort"),
        ({"spec": {"type": 1}}, "spec.type", "expected a text or nothing"[:15]),
        ({"apiVersion": None}, "apiVersion", "is missing"),
    ],
)
def test_unusable_service_names_the_field(change: Json, path: str, said: str) -> None:
    """Lost: the user would search the whole manifest for the mistake."""
    decoded = both_ways({**service(), **change})
    assert decoded.object is None
    assert not decoded.ignored
    assert said in faults(decoded)[path]


def test_bad_annotation_costs_only_itself() -> None:
    """Lost: an unquoted `true` in an annotation would take the Service down."""
    decoded = both_ways(service(annotations={"spliceway.io/replay": True, "spliceway.io/balance": "p2c", "other": 1}))
    assert isinstance(decoded.object, Service)
    assert decoded.object.tuning == (("balance", "p2c"),)
    assert list(faults(decoded)) == ["metadata.annotations.spliceway.io/replay"]


def test_e01_slice_without_service_is_left_alone() -> None:
    """Lost: endpoints would land at a Service of an empty name, or stay after the label was taken away (E-12)."""
    for labels in (None, {}, {"kubernetes.io/service-name": ""}):
        decoded = both_ways(endpoint_slice({"labels": labels}))
        assert decoded.ignored
        assert decoded.object is None
        assert decoded.key == ObjectKey("default", "shop-1")
        assert all(fault.warning for fault in decoded.faults)


def test_e02_fqdn_is_left_alone_with_a_warning() -> None:
    """Lost: a name would be dialled as if it were an address."""
    decoded = both_ways(endpoint_slice(addressType="FQDN", endpoints=[{"addresses": ["example.com"]}]))
    assert decoded.ignored
    assert decoded.faults[0].warning
    assert "FQDN" in decoded.faults[0].message


def test_e02_address_of_another_family() -> None:
    """Lost: an IPv6 backend behind an IPv4 frontend because of one typing mistake."""
    decoded = both_ways(endpoint_slice(endpoints=[{"addresses": ["fd00::1"]}, {"addresses": ["10.0.0.2"]}]))
    assert isinstance(decoded.object, EndpointSlice)
    assert [endpoint.address for endpoint in decoded.object.endpoints] == ["10.0.0.2"]
    assert "another family" in faults(decoded)["endpoints[0].addresses[0]"]


def test_e03_ports_without_name_or_number() -> None:
    """Lost: a port that Kubernetes calls unusable would be dialled."""
    ports = [{"port": 1}, {"name": "all"}, {"name": "", "port": 2}, {"name": "zero", "port": 0}]
    decoded = both_ways(endpoint_slice(ports=ports))
    assert isinstance(decoded.object, EndpointSlice)
    assert decoded.object.ports == (SlicePort("", Protocol.TCP, 2),)
    assert list(faults(decoded)) == ["ports[1].port", "ports[3].port"]


def test_e03_manifest_has_the_defaults_of_the_api_server() -> None:
    """Lost: a manifest that a cluster accepts would serve nothing here."""
    value = endpoint_slice({"namespace": None}, ports=[{"port": 80}])
    made = made_slice(value, manifest=True)
    assert made.key == ObjectKey("default", "shop-1")
    assert made.ports == (SlicePort("", Protocol.TCP, 80),)


def test_e05_first_address_only() -> None:
    """Lost: an endpoint would count twice, or one without address would crash the agent."""
    endpoints = [{"addresses": ["10.0.0.1", "10.0.0.2"]}, {"addresses": []}, {"addresses": None}, {}]
    decoded = both_ways(endpoint_slice(endpoints=endpoints))
    assert isinstance(decoded.object, EndpointSlice)
    assert decoded.object.endpoints == (SliceEndpoint("10.0.0.1"),)
    assert decoded.faults == ()


@pytest.mark.parametrize("conditions", [None, {}, {"ready": None, "serving": None, "terminating": None}])
def test_e06_defaults_of_conditions(conditions: Json | None) -> None:
    """Lost: endpoints of a controller that writes no conditions would never be used."""
    made = made_slice(endpoint_slice(endpoints=[{"addresses": ["10.0.0.1"], "conditions": conditions}]))
    assert made.endpoints == (SliceEndpoint("10.0.0.1", ready=True, serving=True, terminating=False),)


def test_e06_conditions_as_given() -> None:
    """Lost: a terminating Pod would get new clients."""
    conditions = {"ready": False, "serving": True, "terminating": True}
    made = made_slice(
        endpoint_slice(endpoints=[{"addresses": ["10.0.0.1"], "conditions": conditions, "nodeName": "n"}])
    )
    assert made.endpoints == (SliceEndpoint("10.0.0.1", ready=False, serving=True, terminating=True, node="n"),)


@pytest.mark.parametrize("address", ["0.0.0.0", "255.255.255.255", "224.0.0.1", "nonsense", ""])
def test_endpoint_that_cannot_be_dialled(address: str) -> None:
    """Lost: a dial of 0.0.0.0 reaches the node itself."""
    decoded = both_ways(endpoint_slice(endpoints=[{"addresses": [address]}, {"addresses": ["10.0.0.2"]}]))
    assert isinstance(decoded.object, EndpointSlice)
    assert [endpoint.address for endpoint in decoded.object.endpoints] == ["10.0.0.2"]
    assert "left out" in faults(decoded)["endpoints[0].addresses[0]"]


def test_bad_endpoint_costs_only_itself() -> None:
    """Lost: one mistyped endpoint of a hundred would take all of them down."""
    endpoints = [{"addresses": ["10.0.0.1"]}, {"addresses": "10.0.0.2"}, 7, {"addresses": ["10.0.0.4"]}]
    decoded = both_ways(endpoint_slice(endpoints=endpoints))
    assert isinstance(decoded.object, EndpointSlice)
    assert [endpoint.address for endpoint in decoded.object.endpoints] == ["10.0.0.1", "10.0.0.4"]
    assert list(faults(decoded)) == ["endpoints[1].addresses", "endpoints[2]"]


def test_null_lists_are_empty() -> None:
    """Lost: the API server writes null for empty lists, and such slices would be called broken."""
    decoded = both_ways(endpoint_slice(ports=None, endpoints=None))
    assert isinstance(decoded.object, EndpointSlice)
    assert decoded.faults == ()


@pytest.mark.parametrize(
    ("api_version", "kind", "said"),
    [
        ("apps/v1", "Deployment", "kind apps/v1 Deployment is not read; left alone"),
        ("v1", "Endpoints", "write an EndpointSlice"),
        ("discovery.k8s.io/v1beta1", "EndpointSlice", "write discovery.k8s.io/v1"),
        ("serving.knative.dev/v1", "Service", "kind serving.knative.dev/v1 Service is not read"),
    ],
)
def test_other_kinds_are_left_alone(api_version: str, kind: str, said: str) -> None:
    """Lost: an ordinary folder of manifests would be full of errors, or a Knative Service be taken for ours."""
    decoded = both_ways({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}, "spec": {"type": 5}})
    assert decoded.ignored
    assert decoded.subject == f"{kind} default/x"
    assert decoded.faults[0].warning
    assert said in decoded.faults[0].message


@pytest.mark.parametrize(
    ("api_version", "kind", "meant"),
    [
        ("v1", "Servce", "v1 Service"),
        ("v1", "service", "v1 Service"),
        ("v1", "Services", "v1 Service"),
        ("discovery.k8s.io/v1", "Service", "v1 Service"),
        ("v1", "EndpointSlice", "discovery.k8s.io/v1 EndpointSlice"),
        ("discovery.k8s.io/v1", "Endpointslices", "discovery.k8s.io/v1 EndpointSlice"),
        ("v1", "Lst", "v1 List"),
        ("v1", "nodes", "v1 Node"),
    ],
)
def test_misspelt_kind_is_an_error(api_version: str, kind: str, meant: str) -> None:
    """Lost: a mistyped kind would take the object away with a mere warning."""
    decoded = both_ways({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}})
    assert not decoded.ignored
    assert not decoded.faults[0].warning
    assert faults(decoded) == {"kind": f"{api_version} {kind} is not known; did you mean {meant}?"}


@pytest.mark.parametrize(
    "kind",
    [
        "ServiceAccount",
        "Secret",
        "Pod",
        "PodList",
        "NodeList",
        "SecretList",
        "Endpoints",
        "EndpointsList",
        "ServiceList",
    ],
)
def test_kinds_of_the_core_api_are_not_taken_for_misspelt(kind: str) -> None:
    """Lost: an ordinary manifest with a ServiceAccount would be an error."""
    assert both_ways({"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}}).ignored


@pytest.mark.parametrize("text", ["0.0.0.0", "0.1.2.3", "224.0.0.9", "255.255.255.255", "::", "ff02::1"])
def test_cluster_ip_that_nobody_can_dial(text: str) -> None:
    """Lost: a frontend of 0.0.0.0 would take the port on every address of the node."""
    decoded = both_ways(service({"clusterIPs": [text, "127.64.0.1"]}))
    assert isinstance(decoded.object, Service)
    assert decoded.object.cluster_ips == ("127.64.0.1",)
    message = f"{text} is not an address that clients can dial; it is left out"
    assert faults(decoded) == {"spec.clusterIPs[0]": message}


def test_items_of_a_typed_list_need_no_kind() -> None:
    """Lost: nothing of a cluster would be read: list items do not say their kind."""
    value = {name: part for name, part in service().items() if name not in ("kind", "apiVersion")}
    decoded = decode_json(json.dumps(value).encode(), Kind.SERVICE)
    assert isinstance(decoded.object, Service)


def test_problem_names_object_field_and_line() -> None:
    """Lost: a problem that nobody can find."""
    decoded = both_ways(service({"ports": [{"port": 0}]}))
    (problem,) = decoded.problems("a.yaml", lambda path: 12 if path == ("spec", "ports", 0, "port") else None)
    assert str(problem) == (
        "a.yaml:12: Service default/shop: spec.ports[0].port: 0 is not a port number (1 to 65535); "
        "this port is left out"
    )


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[" * 100_000, b'{"kind":' + b"[" * 100_000, b'{"kind":"\xff"}', b"nul", b"{}x"]
)
def test_malformed_json_is_a_value(data: bytes) -> None:
    """Lost: one bad message would end the stream's task."""
    assert decode_json(data).malformed
