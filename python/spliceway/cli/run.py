"""``spliceway run``: the agent in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from spliceway.cli.logs import FORMATS, LEVELS, configure_logs
from spliceway.cli.params import (
    OFF,
    AddressParam,
    FilePathParam,
    ListenParam,
    SecondsParam,
    option,
    state_socket_option,
)
from spliceway.model import Balance, HealthCheck, RetryPolicy
from spliceway.settings import AdminSettings, EngineSettings, Settings, SourceSettings

_SETTINGS = Settings()
_HEALTH = _SETTINGS.health
_RETRY = _SETTINGS.retry
_DAY = 86_400.0


@click.command()
@option(
    "--manifests",
    type=FilePathParam(),
    multiple=True,
    metavar="PATH...",
    help="Files or folders (*.yaml, *.yml, *.json) of Services and EndpointSlices; watched while the agent runs.",
)
@click.argument("more_manifests", nargs=-1, type=FilePathParam(), metavar="")
@option("--kubeconfig", type=click.Path(path_type=Path), help="Watch the cluster of this file instead of manifests.")
@option("--context", metavar="NAME", help="Context of the kubeconfig.  [default: its current context]")
@option(
    "--listen",
    type=ListenParam(),
    multiple=True,
    metavar="ADDR:PORT=NAMESPACE/SERVICE[:PORTNAME]",
    help="Serve this Service at this address, and bind nothing else. May be repeated.",
)
@option(
    "--balance",
    type=click.Choice([each.value for each in Balance]),
    default=_SETTINGS.balance.value,
    help="How a backend is chosen, unless a Service's annotation spliceway.io/balance says otherwise.",
)
@option("--tries", type=click.IntRange(1, 16), default=_RETRY.tries, help="Backends tried for one client.")
@option(
    "--connect-timeout",
    type=SecondsParam(0.001, 3600.0),
    default=_RETRY.connect_timeout,
    help="Seconds until an unanswered try goes to the next backend.",
)
@option(
    "--retry-deadline",
    type=SecondsParam(0.001, 3600.0),
    default=_RETRY.deadline,
    help="Seconds in all until a client without a backend is refused; clients give up after 1 s or more.",
)
@option(
    "--replay/--no-replay",
    default=_RETRY.replay,
    help="Send a client's first bytes to another backend when the first one closes before it answered. Only for "
    "protocols whose first message may be repeated; annotation spliceway.io/replay sets it for one Service.",
)
@option(
    "--health",
    type=click.Choice(["passive", "tcp", "http", "off"]),
    default=_HEALTH.kind,
    help="passive: probe only backends that failed under traffic; tcp, http: probe all of them all the time.",
)
@option("--health-interval", type=SecondsParam(0.01, _DAY), default=_HEALTH.interval, help="Seconds between probes.")
@option("--health-timeout", type=SecondsParam(0.01, _DAY), default=_HEALTH.timeout, help="Seconds a probe may take.")
@option("--health-rise", type=click.IntRange(1, 1000), default=_HEALTH.rise, help="Successes in a row to trust again.")
@option("--health-fall", type=click.IntRange(1, 1000), default=_HEALTH.fall, help="Failures in a row to set aside.")
@option("--health-path", default=_HEALTH.path, metavar="PATH", help="Path that HTTP probes ask for.")
@option("--health-port", type=click.IntRange(1, 65535), help="Port to probe.  [default: the endpoint's own]")
@option("--workers", type=click.IntRange(0, 16), default=0, help="Worker threads; 0: one for each CPU.")
@option(
    "--max-flows",
    type=click.IntRange(1, 100_000_000),
    default=_SETTINGS.engine.max_flows,
    help="Connections open at once; accepting pauses there. The limit of open files may allow fewer.",
)
@option(
    "--endpoint-drain",
    type=SecondsParam(0.0, 30 * _DAY),
    help="Seconds that connections to a removed endpoint may go on.  [default: until they end]",
)
@option(
    "--shutdown-deadline",
    type=SecondsParam(0.0, _DAY),
    default=_SETTINGS.shutdown,
    help="Seconds from SIGTERM until connections that are left are cut; a second SIGTERM cuts them at once.",
)
@option(
    "--admin",
    type=AddressParam(off=True),
    default=str(_SETTINGS.admin.address),
    metavar="ADDR:PORT|off",
    help="Address of /healthz, /livez, /readyz and /metrics.",
)
@state_socket_option
@option("--log-level", type=click.Choice(LEVELS), default="info", help="Least important messages to log.")
@option("--log-format", type=click.Choice(FORMATS), default="text", help="Form of the log on stderr.")
def run(more_manifests: tuple[Path, ...], **options: Any) -> None:
    """Run the agent until SIGTERM or Ctrl-C.

    Services come from --manifests, from the cluster of --kubeconfig, or, with neither, from the cluster in whose Pod
    the agent runs. Each Service's ClusterIP is bound on this machine, unless --listen says what to serve where.

    \b
    Examples:
      spliceway run --manifests examples/
      spliceway run --kubeconfig ~/.kube/config --listen 0.0.0.0:8080=default/shop:http
    """
    settings = build_settings(more_manifests, options)
    configure_logs(options["log_level"], options["log_format"])
    import trio

    from spliceway.node import run_agent

    trio.run(run_agent, settings)


def build_settings(more_manifests: tuple[Path, ...], options: dict[str, Any]) -> Settings:
    """One `Settings` of all options; what they contradict each other in is a usage error."""
    if more_manifests and not options["manifests"]:
        raise click.UsageError(f"Unexpected argument {str(more_manifests[0])!r}; did you mean --manifests?")
    manifests = (*options["manifests"], *more_manifests)
    if manifests and (options["kubeconfig"] or options["context"]):
        other = "--kubeconfig" if options["kubeconfig"] else "--context"
        raise click.UsageError(f"--manifests and {other} exclude each other: Services come from one place.")
    addresses = [listen.address for listen in options["listen"]]
    for address in addresses:
        if addresses.count(address) > 1:
            raise click.UsageError(f"--listen names {address} twice; one address serves one Service.")
    if not options["health_path"].startswith("/") or not _is_printable(options["health_path"]):
        raise click.BadParameter("it must begin with / and hold no spaces.", param_hint="'--health-path'")
    return Settings(
        source=SourceSettings(manifests, options["kubeconfig"], options["context"]),
        listens=options["listen"],
        balance=Balance(options["balance"]),
        retry=RetryPolicy(
            tries=options["tries"],
            connect_timeout=options["connect_timeout"],
            deadline=options["retry_deadline"],
            replay=options["replay"],
        ),
        health=HealthCheck(
            kind=options["health"],
            interval=options["health_interval"],
            timeout=options["health_timeout"],
            rise=options["health_rise"],
            fall=options["health_fall"],
            path=options["health_path"],
            port=options["health_port"],
        ),
        endpoint_drain=options["endpoint_drain"],
        shutdown=options["shutdown_deadline"],
        engine=EngineSettings(workers=options["workers"], max_flows=options["max_flows"]),
        admin=AdminSettings(
            address=None if options["admin"] is OFF else options["admin"], socket=options["state_socket"]
        ),
    )


def _is_printable(path: str) -> bool:
    return all("!" <= character <= "~" for character in path)
