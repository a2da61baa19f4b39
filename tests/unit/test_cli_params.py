"""Values on the command line become what was meant."""

from __future__ import annotations

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
from spliceway.settings import Listen, Settings


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


def test_defaults_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The docs of the settings would not be true for the command line."""
    import msgspec

    settings = settings_of(monkeypatch)
    assert settings.admin.socket == default_state_socket()
    expected = msgspec.structs.replace(Settings(), admin=settings.admin)
    assert settings == expected
    assert settings.admin.address == Settings().admin.address


def test_every_option_arrives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A flag would be accepted and do nothing."""
    arguments = (
        "--listen 127.0.0.1:81=a/b --listen 127.0.0.1:82=a/c:x --balance p2c --tries 2 --connect-timeout 100ms "
        "--retry-deadline 0.5 --replay --health http --health-interval 3 --health-timeout 2 --health-rise 4 "
        "--health-fall 5 --health-path /ready --health-port 8081 --workers 3 --max-flows 1000 --endpoint-drain 1m "
        "--shutdown-deadline 10 --admin [::]:10256 --state-socket s.sock"
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
    assert (settings.admin.address, settings.admin.socket) == (Address("::", 10256), Path("s.sock"))
    assert settings_of(monkeypatch, "--admin", "off").admin.address is None
    config = settings_of(monkeypatch, "--kubeconfig", "x", "--context", "y").source
    assert (config.kubeconfig, config.context) == (Path("x"), "y")


def test_every_option_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A DaemonSet could not set a flag by its environment."""
    environment: dict[str, Any] = {
        "SPLICEWAY_LISTEN": "127.0.0.1:81=a/b 127.0.0.1:82=a/c:x",
        "SPLICEWAY_HEALTH_INTERVAL": "7",
        "SPLICEWAY_REPLAY": "true",
        "SPLICEWAY_ADMIN": "off",
        "SPLICEWAY_STATE_SOCKET": "other.sock",
    }
    settings = settings_of(monkeypatch, **environment)
    assert len(settings.listens) == 2
    assert settings.health.interval == 7.0
    assert settings.retry.replay
    assert settings.admin.address is None
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
