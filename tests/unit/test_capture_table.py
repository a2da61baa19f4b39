"""The text of the nftables table: a wrong element leads clients of one Service to the verdict of another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spliceway.capture.tproxy.actions import action_chain
from spliceway.capture.tproxy.arrivals import Arrivals
from spliceway.capture.tproxy.detector import classify, detector_of, pod_cidrs
from spliceway.capture.tproxy.elements import Element, change_text, collapse, elements_of
from spliceway.capture.tproxy.hostchecks import bridge_problems
from spliceway.capture.tproxy.layout import Detector, Marks
from spliceway.capture.tproxy.nodeports import Accepted, accepted_addresses, follows_interfaces
from spliceway.capture.tproxy.rules import table_text
from spliceway.capture.tproxy.state import WantedTable
from spliceway.capture.tproxy.transaction import encode
from spliceway.model import (
    Address,
    ClientClass,
    ExternalRoute,
    Frontend,
    FrontendKey,
    FrontendVerdict,
    Node,
    ObjectKey,
    Protocol,
)
from spliceway.settings import CaptureSettings, DetectLocal

SERVE, REJECT, DROP = FrontendVerdict.SERVE, FrontendVerdict.REJECT, FrontendVerdict.DROP
PRESENT = ("127.0.0.1", "192.168.0.2", "192.168.1.2", "::1", "2001:db8::2", "2001:db8:1::2")


def frontend(
    host: str = "10.0.0.1",
    verdict: FrontendVerdict = SERVE,
    protocol: Protocol = Protocol.TCP,
    external: FrontendVerdict | None = None,
    sources: tuple[str, ...] = (),
) -> Frontend:
    route = ExternalRoute("s@local", external) if external else None
    return Frontend(Address(host, 80), "s", verdict, protocol, external=route, sources=sources)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (frontend(), [("frontends4", "10.0.0.1 . tcp . 80", "jump serve")]),
        (frontend("fd00::1", REJECT), [("frontends6", "fd00::1 . tcp . 80", "jump refuse")]),
        (frontend(verdict=DROP), [("frontends4", "10.0.0.1 . tcp . 80", "jump discard")]),
        (frontend(external=DROP), [("frontends4", "10.0.0.1 . tcp . 80", "jump serve_external_discard")]),
        (frontend(external=SERVE), [("frontends4", "10.0.0.1 . tcp . 80", "jump serve")]),
        (
            frontend("fd00::1", protocol=Protocol.UDP),
            [("frontends6", "fd00::1 . udp . 80", "jump serve"), ("udp_frontends6", "fd00::1 . 80", "")],
        ),
        (frontend("0.0.0.0", sources=("10.0.0.0/8",)), [("nodeports4", "tcp . 80", "jump serve")]),
        (frontend("::", external=REJECT), [("nodeports6", "tcp . 80", "jump serve_external_refuse")]),
        (
            frontend(sources=("10.0.0.0/8", "10.1.0.0/16", "fd00::/8")),
            [
                ("frontends4", "10.0.0.1 . tcp . 80", "jump guard_serve"),
                ("sources4", "10.0.0.1 . tcp . 80 . 10.0.0.0/8", ""),
            ],
        ),
        # Ranges of the other family only: nobody may come (that such a list means "everybody" is the plan's to say).
        (frontend(sources=("fd00::/8",)), [("frontends4", "10.0.0.1 . tcp . 80", "jump guard_serve")]),
        (frontend(protocol=Protocol.SCTP), []),
    ],
)
def test_elements_of_a_frontend(made: Frontend, expected: list[tuple[str, str, str]]) -> None:
    assert elements_of(made) == tuple(Element(*each) for each in expected)


def test_every_action_that_an_element_names_is_a_chain_of_the_table() -> None:
    text = table_text(Marks.of_bit(4), {}, Detector(), {4: Accepted(None), 6: Accepted(None)})
    for verdict in FrontendVerdict:
        for external in FrontendVerdict:
            for guarded in (False, True):
                assert f"\tchain {action_chain(verdict, external, guarded=guarded)} {{\n" in text


def test_marks_are_always_masked() -> None:
    """Other programs keep their own bits in the packet mark; one assignment without a mask breaks their routing."""
    marks = Marks.of_bit(4)
    assert marks == (0x10, 0x20)
    accepted = {4: Accepted(None), 6: Accepted(None)}
    text = table_text(marks, {}, Detector(), accepted, untracked_clients=True, bridged=True)
    sets = [line for line in text.splitlines() if " mark set " in line]
    assert len(sets) > 5
    for line in sets:
        assert "mark set meta mark | 0x000000" in line or "mark set ct mark | 0x000000" in line or "0xffffffcf" in line
    assert "0x00000040" in table_text(Marks.of_bit(6), {}, Detector(), {4: Accepted(None), 6: Accepted(None)})


def test_only_where_bridges_are_filtered_packets_pass_a_hook_for_them() -> None:
    """Each hook costs every packet of the node."""
    marks, accepted = Marks.of_bit(4), {4: Accepted(None), 6: Accepted(None)}
    few, more = (table_text(marks, {}, Detector(), accepted, bridged=each) for each in (False, True))
    assert more.count(" hook ") == few.count(" hook ") + 1


STATES = st.dictionaries(
    st.sampled_from(["10.0.0.1", "10.0.0.2", "0.0.0.0", "fd00::1", "::"]),
    st.tuples(
        st.sampled_from(list(FrontendVerdict)),
        st.sampled_from([Protocol.TCP, Protocol.UDP]),
        st.sampled_from([None, *FrontendVerdict]),
        st.sampled_from([(), ("10.0.0.0/8",), ("10.0.0.0/8", "192.0.2.0/24")]),
    ),
)


@given(st.lists(STATES, max_size=5))
def test_changes_one_by_one_give_what_a_fresh_start_gives(states: list[dict[str, tuple[object, ...]]]) -> None:
    """The law of every incremental path: a node that ran for weeks has the same rules as one that just started."""
    wanted = WantedTable(CaptureSettings())
    kernel: dict[tuple[str, str], str] = {}
    before: dict[FrontendKey, Frontend] = {}
    for state in states:
        now = {made.key: made for made in (frontend(host, *rest) for host, rest in state.items())}  # type: ignore[arg-type]
        _apply(kernel, change_text(*wanted.change(now.values(), [key for key in before if key not in now])))
        before = now
        fresh = WantedTable(CaptureSettings())
        expected: dict[tuple[str, str], str] = {}
        _apply(expected, change_text(*fresh.change(now.values(), ())))
        assert kernel == expected
        assert wanted.elements == fresh.elements == len(expected)
        elements = wanted.whole().partition("\n}\n")[2]
        again: dict[tuple[str, str], str] = {}
        _apply(again, elements)
        assert again == expected


def _apply(kernel: dict[tuple[str, str], str], text: str) -> None:
    """As the kernel does: deleting what is not there, or adding what is there, fails the transaction."""
    for line in text.splitlines():
        command, rest = line.split(" element inet spliceway ")
        container, _, body = rest.partition(" { ")
        for item in body.removesuffix(" }").split(", "):
            key, _, action = item.partition(" : ")
            if command == "delete":
                del kernel[container, key]
            else:
                assert (container, key) not in kernel
                kernel[container, key] = action


def test_elements_are_encoded_as_nft_does() -> None:
    """What ``nft`` sends, as ``strace`` shows it; one wrong byte is another Service. (tests/netns asks the kernel.)"""
    key = bytes.fromhex("18000180 14000180 10000100 0a602711 06000000 00500000")
    jump = bytes.fromhex("1c000280 18000280 08000100 fffffffd 0b000200") + b"refuse\0\0"
    element = Element("frontends4", "10.96.39.17 . tcp . 80", "jump refuse")
    assert encode(element._replace(action="")) == key
    assert encode(element) == bytes.fromhex("34000180") + key[4:] + jump
    ranged = encode(Element("sources6", "fd00::1 . udp . 53 . fd00:1::/32"))
    assert bytes.fromhex("fd000001 00000000 00000000 00000000") in ranged
    assert bytes.fromhex("fd000001 ffffffff ffffffff ffffffff") in ranged


def test_an_unchanged_frontend_costs_no_transaction() -> None:
    wanted = WantedTable(CaptureSettings())
    assert any(wanted.change([frontend()], ()))
    assert not any(wanted.change([frontend()], ()))
    assert not any(wanted.change((), [frontend("10.9.9.9").key]))
    assert change_text((), ()) == ""


def test_a_listing_that_differs_is_told_from_one_that_does_not() -> None:
    wanted = WantedTable(CaptureSettings())
    assert not wanted.matches(None)
    assert not wanted.matches(b'{"nftables": []}')
    assert not wanted.matches(b"not json")


@given(st.lists(st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32", "fd00::/8", "fd00:1::/32"])))
def test_collapsed_ranges_never_overlap_and_cover_the_same(cidrs: list[str]) -> None:
    """A set of intervals refuses ranges that overlap, and with them the whole transaction."""
    four, six = collapse(cidrs, 4), collapse(cidrs, 6)
    assert ("10.0.0.0/8" in four) == ("10.0.0.0/8" in cidrs)
    assert ("10.1.0.0/16" in four) == ("10.1.0.0/16" in cidrs and "10.0.0.0/8" not in cidrs)
    assert ("fd00:1::/32" in six) == ("fd00:1::/32" in cidrs and "fd00::/8" not in cidrs)


def accepted(
    *entries: str, node: tuple[str, ...] | None = ("192.168.0.2",), localhost: bool = False
) -> dict[int, Accepted]:
    settings = CaptureSettings(node_port_addresses=entries, localhost_node_ports=localhost)
    return accepted_addresses(settings, node, PRESENT)


def test_node_port_addresses_as_specified() -> None:
    """D-06, D-07, A.5: an address too many is a hole in the node, one too few an outage."""
    assert accepted() == {4: Accepted(None), 6: Accepted(None)}
    assert accepted("all") == {4: Accepted(None), 6: Accepted(None)}
    assert accepted("192.168.0.0/24", "127.0.0.1/32") == {4: Accepted(("192.168.0.2",)), 6: Accepted(None)}
    assert accepted("192.168.0.0/24", "192.168.1.0/24", "2001:db8::/64") == {
        4: Accepted(("192.168.0.2", "192.168.1.2")),
        6: Accepted(("2001:db8::2",)),
    }
    assert accepted("primary") == {4: Accepted(("192.168.0.2",)), 6: Accepted(None)}
    assert accepted("primary", node=None) == {4: Accepted(()), 6: Accepted(())}
    assert accepted("primary", "2001:db8::/16", node=("192.168.1.2", "2001:db8:1::2"))[6].addresses == (
        "2001:db8:1::2",
        "2001:db8::2",
    )
    assert accepted("localhost") == {4: Accepted(()), 6: Accepted(())}
    assert accepted("0.0.0.0/0", "192.168.0.0/24", "::/0") == {4: Accepted(None), 6: Accepted(None)}


def test_loopback_node_ports_need_the_option_and_a_list_that_covers_them() -> None:
    """D-09."""
    assert accepted(localhost=True) == {4: Accepted(None, True), 6: Accepted(None, True)}
    assert accepted("localhost", localhost=True) == {4: Accepted((), True), 6: Accepted((), True)}
    assert accepted("192.168.0.0/24", localhost=True) == {4: Accepted(("192.168.0.2",)), 6: Accepted(None, True)}


def test_interfaces_are_followed_only_when_some_address_is_left_out() -> None:
    assert not follows_interfaces(CaptureSettings())
    assert not follows_interfaces(CaptureSettings(node_port_addresses=("all",)))
    assert follows_interfaces(CaptureSettings(node_port_addresses=("primary",)))


def test_the_first_cidr_of_each_family_counts() -> None:
    """M-01."""
    settings = CaptureSettings(cluster_cidrs=("10.0.0.0/8", "11.0.0.0/8", "fd00::/8"))
    assert pod_cidrs(settings, None) == ("10.0.0.0/8", "fd00::/8")
    by_node = CaptureSettings(detect_local=DetectLocal.NODE_CIDR, cluster_cidrs=("10.0.0.0/8",))
    assert pod_cidrs(by_node, None) == ()
    assert pod_cidrs(by_node, Node(ObjectKey("", "n"), pod_cidrs=("10.4.0.0/24",))) == ("10.4.0.0/24",)
    bridge = CaptureSettings(detect_local=DetectLocal.BRIDGE_INTERFACE, local_interface="cni0")
    assert pod_cidrs(bridge, None) == ()
    assert detector_of(bridge) == Detector("cni0")


def test_clients_are_classified_in_the_order_of_the_rules() -> None:
    """T-13: Pod before node."""
    local = {"10.0.0.1", "192.168.0.2"}.__contains__

    def kind(host: str, detector: Detector | None = None) -> ClientClass:
        return classify(host, ("10.0.0.0/8",), detector or Detector(), local, lambda _: "cali7")

    assert kind("10.0.0.1") is ClientClass.POD
    assert kind("192.168.0.2") is ClientClass.NODE
    assert kind("127.0.0.9") is kind("::1") is ClientClass.NODE
    assert kind("192.168.0.9") is kind("fd00::1") is ClientClass.EXT
    assert kind("192.168.0.9", Detector("cali", prefix=True)) is ClientClass.POD
    assert kind("192.168.0.9", Detector("cali")) is ClientClass.EXT


def test_bridges_with_pods_are_told_and_others_are_not() -> None:
    addresses = (("cni0", "10.0.1.1"), ("docker0", "172.17.0.1"), ("eth0", "10.0.9.9"))
    found = bridge_problems(("cni0", "docker0"), addresses, ("10.0.0.0/16",), Detector())
    assert [problem.warning for problem in found] == [True]
    assert "Linux bridge cni0" in found[0].message
    assert len(bridge_problems(("docker0",), addresses, (), Detector("docker0"))) == 1
    assert bridge_problems((), addresses, ("10.0.0.0/16",), Detector()) == ()


def test_a_firewall_is_told_of_when_nobody_of_a_class_arrives() -> None:
    """A warning that comes and goes by chance would be ignored, and one that stays would be as well."""
    arrivals = Arrivals(0x30)

    def told(led_pod: int, landed_pod: int, led_ext: int = 0, landed_ext: int = 0) -> list[str]:
        counters = {"led_pod": led_pod, "landed_pod": landed_pod, "led_ext": led_ext, "landed_ext": landed_ext}
        problems = arrivals.problems(counters)
        assert all(problem.warning and "0x30" in problem.message for problem in problems)
        return [
            problem.message.partition(" are captured")[0].removeprefix("new connections of ") for problem in problems
        ]

    assert arrivals.problems({}) == ()
    assert told(2, 0) == [], "too few to tell"
    assert told(5, 0, 9, 9) == ["Pods"]
    assert told(5, 0, 9, 9) == ["Pods"], "nobody came, so nothing is known to be better"
    assert told(6, 1, 12, 9) == ["clients from outside"]
    assert told(3, 3, 3, 0) == ["clients from outside"], "the table was written anew"
    assert told(9, 3, 4, 1) == ["Pods"]
