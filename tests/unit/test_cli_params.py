"""Values on the command line become what was meant."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from spliceway.cli import run as run_module
from spliceway.cli.main import cli
from spliceway.cli.params import (
    OFF,
    AddressParam,
    ClientParam,
    ListenParam,
    SecondsParam,
    default_state_socket,
)
from spliceway.model import Address, Balance
from spliceway.settings import (
    AdminSettings,
    CaptureMode,
    CaptureSettings,
    DetectLocal,
    Listen,
    NodeSettings,
    Settings,
)


@pytest.mark.parametrize(
    ("text", "seconds"), [("2", 2.0), ("0.25", 0.25), (".5", 0.5), ("250ms", 0.25), ("1.5m", 90.0), ("1h", 3600.0)]
)
def test_times(text: str, seconds: float) -> None:
    """A time-out would be a thousand times too long."""
    assert SecondsParam().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1", "nan", "inf", "1d", "1e3", "5 s", "0x10"])
def test_no_times(text: str) -> None:
    """Nonsense would become a time-out."""
    with pytest.raises(click.BadParameter, match="is not a time"):
        SecondsParam().convert(text, None, None)


def test_time_out_of_range_says_the_range() -> None:
    """The user would have to guess."""
    with pytest.raises(click.BadParameter, match=r"at least 1 s and at most 60 s"):
        SecondsParam(1.0, 60.0).convert("2m", None, None)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1", Address("10.0.0.1", 0)),
        ("10.0.0.1:80", Address("10.0.0.1", 80)),
        ("fd00::1", Address("fd00::1", 0)),
        ("::1:80", Address("::1:80", 0)),
        ("[fd00::1]", Address("fd00::1", 0)),
        ("[fd00::1]:80", Address("fd00::1", 80)),
    ],
)
def test_clients(text: str, address: Address) -> None:
    """Explain would be asked about somebody else."""
    assert ClientParam().convert(text, None, None) == address


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("0.0.0.0:80=default/shop", Listen(Address("0.0.0.0", 80), "default", "shop")),
        ("[::1]:80=a/b:http", Listen(Address("::1", 80), "a", "b", "http")),
    ],
)
def test_listens(text: str, listen: Listen) -> None:
    """A gateway would serve the wrong Service."""
    assert ListenParam().convert(text, None, None) == listen


@given(st.text(max_size=40))
def test_no_text_breaks_a_parameter(text: str) -> None:
    """A traceback would greet a typo."""
    for param in (ListenParam(), AddressParam(off=True), ClientParam(), SecondsParam()):
        with suppress(click.BadParameter):
            param.convert(text, None, None)


def test_off_is_not_an_address() -> None:
    """The admin listener could not be switched off."""
    assert AddressParam(off=True).convert("off", None, None) is OFF
    with pytest.raises(click.BadParameter):
        AddressParam().convert("off", None, None)


def settings_of(monkeypatch: pytest.MonkeyPatch, *arguments: str, **environment: str) -> Settings:
    """The settings with which ``spliceway run`` would start an agent."""
    import trio

    started: list[Settings] = []
    monkeypatch.setattr(trio, "run", lambda _, settings: started.append(settings))
    monkeypatch.setattr(run_module, "configure_logs", lambda *_: None)
    result = CliRunner().invoke(cli, ["run", *arguments], env=environment)
    assert result.exit_code == 0, result.output
    return started[0]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("NODE_NAME", raising=False)


def test_defaults_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The docs of the settings would not be true for the command line."""
    import msgspec

    settings = settings_of(monkeypatch)
    assert settings.admin.socket == default_state_socket()
    expected = msgspec.structs.replace(Settings(), admin=settings.admin)
    assert settings == expected
    assert settings.admin.healthz == Settings().admin.healthz


def test_every_option_arrives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A flag would be accepted and do nothing."""
    arguments = (
        "--listen 127.0.0.1:81=a/b --listen 127.0.0.1:82=a/c:x --balance p2c --tries 2 --connect-timeout 100ms "
        "--retry-deadline 0.5 --replay --health http --health-interval 3 --health-timeout 2 --health-rise 4 "
        "--health-fall 5 --health-path /ready --health-port 8081 --workers 3 --max-flows 1000 --endpoint-drain 1m "
        "--shutdown-deadline 10 --healthz-bind-address [::]:10256 --metrics-bind-address 0.0.0.0:9 "
        "--state-socket s.sock "
        "--bind-address-hard-fail=true --capture bind --hostname-override N1 --cluster-cidr 10.244.0.1/16,fd00::/56 "
        "--detect-local-mode BridgeInterface --pod-bridge-interface cni0 --masquerade-all --localhost-nodeports "
        "--nodeport-addresses primary,192.0.2.7/24 --no-external-ips --service-proxy-name spliceway --mark-bit 6 "
        "--untracked-clients "
        "--conntrack-max-per-core 1 --conntrack-min 2 --conntrack-tcp-timeout-established 3h "
        "--conntrack-tcp-timeout-close-wait 4m --udp-timeout 5 --udp-stream-timeout 6 --max-sessions 7 "
        "--max-affinities 8 --no-events"
    )
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path in paths:
        path.mkdir()
    manifests = ("--manifests", str(paths[0]), "--manifests", str(paths[1]), str(paths[2]))
    settings = settings_of(monkeypatch, *arguments.split(), *manifests)
    assert sorted(settings.source.manifests) == paths
    assert [listen.service for listen in settings.listens] == ["b", "c"]
    assert settings.balance is Balance.P2C
    retry = settings.retry
    assert (retry.tries, retry.connect_timeout, retry.deadline, retry.replay) == (2, 0.1, 0.5, True)
    health = settings.health
    assert (health.kind, health.interval, health.timeout, health.rise, health.fall) == ("http", 3.0, 2.0, 4, 5)
    assert (health.path, health.port) == ("/ready", 8081)
    assert (settings.engine.workers, settings.engine.max_flows) == (3, 1000)
    assert (settings.endpoint_drain, settings.shutdown) == (60.0, 10.0)
    assert settings.admin == AdminSettings(Address("::", 10256), Address("0.0.0.0", 9), True, Path("s.sock"))
    assert settings.capture == CaptureSettings(
        detect_local=DetectLocal.BRIDGE_INTERFACE,
        cluster_cidrs=("10.244.0.0/16", "fd00::/56"),
        local_interface="cni0",
        masquerade_all=True,
        node_port_addresses=("primary", "192.0.2.0/24"),
        localhost_node_ports=True,
        external_ips=False,
        mark_bit=6,
        untracked_clients=True,
    )
    assert settings.node == NodeSettings(
        name="n1",
        proxy_name="spliceway",
        conntrack_max_per_core=1,
        conntrack_min=2,
        conntrack_tcp_established=10_800.0,
        conntrack_tcp_close_wait=240.0,
        events=False,
    )
    engine = settings.engine
    assert (engine.udp_timeout, engine.udp_stream_timeout, engine.max_sessions, engine.max_affinities) == (5, 6, 7, 8)
    config = settings_of(monkeypatch, "--kubeconfig", "x", "--context", "y", "--master", "https://z").source
    assert (config.kubeconfig, config.context, config.server) == (Path("x"), "y", "https://z")


@pytest.mark.parametrize("off", ["off", ""])
def test_admin_addresses_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, off: str) -> None:
    """Whoever wants no open port would get one."""
    admin = settings_of(monkeypatch, "--healthz-bind-address", off, "--metrics-bind-address", off).admin
    assert (admin.healthz, admin.metrics) == (None, None)


def test_a_node_is_probed_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load balancers would find no health check, or a laptop would open a port to the world (H-11)."""
    assert settings_of(monkeypatch).admin.healthz == Address("127.0.0.1", 10256)
    admin = settings_of(monkeypatch, "--capture", "tproxy").admin
    assert (admin.healthz, admin.metrics) == (Address("0.0.0.0", 10256), Address("127.0.0.1", 10249))


def test_upstream_sockets_carry_a_mark_only_with_packet_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent without privileges could not dial, or a node's agent would capture its own connections."""
    assert settings_of(monkeypatch).engine.mark == 0
    settings = settings_of(monkeypatch, "--capture", "tproxy", "--mark-bit", "9")
    assert (settings.capture.mode, settings.capture.mark_bit, settings.engine.mark) == (CaptureMode.TPROXY, 9, 1 << 10)


@pytest.mark.parametrize("value", ["=true", "=false", ""])
def test_switches_may_be_said_as_to_kube_proxy(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A command line written for kube-proxy would not be understood."""
    assert settings_of(monkeypatch, f"--masquerade-all{value}").capture.masquerade_all == (value != "=false")


@pytest.mark.parametrize(
    ("arguments", "environment", "name"),
    [
        ((), {}, None),
        ((), {"NODE_NAME": " N2 "}, "n2"),
        (("--manifests", "."), {"NODE_NAME": "n2"}, None),
        (("--manifests", ".", "--hostname-override", "N3"), {}, "n3"),
        (("--capture", "tproxy"), {}, "host"),
        (("--capture", "tproxy"), {"NODE_NAME": "n2"}, "n2"),
        (("--capture", "tproxy", "--hostname-override", " N3 "), {"NODE_NAME": "n2"}, "n3"),
        (("--capture", "tproxy", "--manifests", "."), {}, None),
    ],
)
def test_the_name_of_the_node(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], environment: dict[str, str], name: str | None
) -> None:
    """Local endpoints would not be found, or a laptop would wait for a Node that does not exist (E-07)."""
    monkeypatch.setattr("socket.gethostname", lambda: "Host")
    monkeypatch.delenv("NODE_NAME", raising=False)
    assert settings_of(monkeypatch, *arguments, **environment).node.name == name


def test_options_that_do_nothing_are_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever forgot --capture tproxy would believe that the node serves NodePorts at these addresses only."""
    flags = ("--nodeport-addresses", "primary", "--masquerade-all", "--hostname-override", "n1")
    settings_of(monkeypatch, *flags, SPLICEWAY_CLUSTER_CIDR="10.244.0.0/16")
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning == "--cluster-cidr, --masquerade-all, --nodeport-addresses do nothing without --capture tproxy"
    caplog.clear()
    settings_of(monkeypatch, "--capture", "tproxy", *flags)
    settings_of(monkeypatch, "--udp-timeout", "5")
    assert not caplog.records


def test_init_only_makes_the_kernel_settings_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The init container would never end, or the agent behind it would miss its settings (P-05)."""
    made: list[NodeSettings] = []
    monkeypatch.setattr(run_module, "apply_sysctls", made.append)
    monkeypatch.setattr(run_module, "configure_logs", lambda *_: None)
    result = CliRunner().invoke(cli, ["run", "--init-only", "--conntrack-min", "7"])
    assert (result.exit_code, [each.conntrack_min for each in made]) == (0, [7])


def test_help_lists_every_option_under_a_heading() -> None:
    """A newcomer would drown in fifty options, or an option would be missing from the help text."""
    text = CliRunner().invoke(cli, ["run", "--help"]).output
    headings = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert headings[0] == "Where Services come from"
    assert headings[-1] == "Other"
    run = cli.get_command(click.Context(cli), "run")
    assert run is not None
    for each in run.params:
        if isinstance(each, click.Option):
            assert re.search(rf"^  (-., )?{each.opts[0]}\b", text, re.MULTILINE), each.opts


def test_every_option_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A DaemonSet could not set a flag by its environment."""
    environment: dict[str, Any] = {
        "SPLICEWAY_LISTEN": "127.0.0.1:81=a/b 127.0.0.1:82=a/c:x",
        "SPLICEWAY_HEALTH_INTERVAL": "7",
        "SPLICEWAY_REPLAY": "true",
        "SPLICEWAY_HEALTHZ_BIND_ADDRESS": "off",
        "SPLICEWAY_MASQUERADE_ALL": "true",
        "SPLICEWAY_STATE_SOCKET": "other.sock",
    }
    settings = settings_of(monkeypatch, **environment)
    assert len(settings.listens) == 2
    assert settings.health.interval == 7.0
    assert settings.retry.replay
    assert settings.admin.healthz is None
    assert settings.capture.masquerade_all
    assert settings.admin.socket == Path("other.sock")
    run = cli.get_command(click.Context(cli), "run")
    assert run is not None
    options = [each for each in run.params if isinstance(each, click.Option) and each.name != "help"]
    for each in options:
        assert each.envvar == f"SPLICEWAY_{each.opts[0].lstrip('-').replace('-', '_').upper()}"
        assert each.help
    assert len(options) > 20


def test_agent_and_status_meet_at_the_same_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`status` without options would not find an agent that was started without options."""
    monkeypatch.setattr("os.geteuid", lambda: 1234)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_state_socket() == tmp_path / "spliceway" / "state.sock"
    assert settings_of(monkeypatch).admin.socket == default_state_socket()
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert default_state_socket().parent.name == "spliceway-1234"
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_state_socket() == Path("/run/spliceway/state.sock")
