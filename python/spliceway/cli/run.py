"""``spliceway run``: the agent in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from spliceway.cli.grouped import GroupedCommand, grouped
from spliceway.cli.logs import FORMATS, LEVELS, configure_logs
from spliceway.cli.nodeflags import LIMITS, LOOKING, node_options
from spliceway.cli.nodesettings import (
    admin_settings,
    capture_settings,
    engine_settings,
    node_settings,
    warn_of_idle_options,
)
from spliceway.cli.params import FilePathParam, ListenParam, SecondsParam, state_socket_option
from spliceway.model import Balance, HealthCheck, RetryPolicy
from spliceway.node.sysctls import apply_sysctls
from spliceway.settings import CaptureMode, Settings, SourceSettings

_SETTINGS = Settings()
_HEALTH = _SETTINGS.health
_RETRY = _SETTINGS.retry
_DAY = 86_400.0

_SERVICES = "Where Services come from"
_BALANCING = "Choosing a backend"
_CHECKS = "Health of backends"


@click.command(cls=GroupedCommand)
@grouped(
    _SERVICES,
    "--manifests",
    type=FilePathParam(),
    multiple=True,
    metavar="PATH...",
    help="Files or folders (*.yaml, *.yml, *.json) of Services and EndpointSlices; watched while the agent runs.",
)
@click.argument("more_manifests", nargs=-1, type=FilePathParam(), metavar="")
@grouped(
    _SERVICES,
    "--kubeconfig",
    type=click.Path(path_type=Path),
    help="Watch the cluster of this file instead of manifests.",
)
@grouped(_SERVICES, "--context", metavar="NAME", help="Context of the kubeconfig.  [default: its current context]")
@grouped(
    _SERVICES,
    "--listen",
    type=ListenParam(),
    multiple=True,
    metavar="ADDR:PORT=NAMESPACE/SERVICE[:PORTNAME]",
    help="Serve this Service at this address, and bind nothing else. May be repeated.",
)
@grouped(
    _BALANCING,
    "--balance",
    type=click.Choice([each.value for each in Balance]),
    default=_SETTINGS.balance.value,
    help="How a backend is chosen, unless a Service's annotation spliceway.io/balance says otherwise.",
)
@grouped(_BALANCING, "--tries", type=click.IntRange(1, 16), default=_RETRY.tries, help="Backends tried for one client.")
@grouped(
    _BALANCING,
    "--connect-timeout",
    type=SecondsParam(0.001, 3600.0),
    default=_RETRY.connect_timeout,
    help="Seconds until an unanswered try goes to the next backend.",
)
@grouped(
    _BALANCING,
    "--retry-deadline",
    type=SecondsParam(0.001, 3600.0),
    default=_RETRY.deadline,
    help="Seconds in all until a client without a backend is refused; clients give up after 1 s or more.",
)
@grouped(
    _BALANCING,
    "--replay/--no-replay",
    default=_RETRY.replay,
    help="Send a client's first bytes to another backend when the first one closes before it answered. Only for "
    "protocols whose first message may be repeated; annotation spliceway.io/replay sets it for one Service.",
)
@grouped(
    _CHECKS,
    "--health",
    type=click.Choice(["passive", "tcp", "http", "off"]),
    default=_HEALTH.kind,
    help="passive: probe only backends that failed under traffic; tcp, http: probe all of them all the time.",
)
@grouped(
    _CHECKS,
    "--health-interval",
    type=SecondsParam(0.01, _DAY),
    default=_HEALTH.interval,
    help="Seconds between probes.",
)
@grouped(
    _CHECKS,
    "--health-timeout",
    type=SecondsParam(0.01, _DAY),
    default=_HEALTH.timeout,
    help="Seconds a probe may take.",
)
@grouped(
    _CHECKS,
    "--health-rise",
    type=click.IntRange(1, 1000),
    default=_HEALTH.rise,
    help="Successes in a row to trust again.",
)
@grouped(
    _CHECKS,
    "--health-fall",
    type=click.IntRange(1, 1000),
    default=_HEALTH.fall,
    help="Failures in a row to set aside.",
)
@grouped(_CHECKS, "--health-path", default=_HEALTH.path, metavar="PATH", help="Path that HTTP probes ask for.")
@grouped(_CHECKS, "--health-port", type=click.IntRange(1, 65535), help="Port to probe.  [default: the endpoint's own]")
@grouped(LIMITS, "--workers", type=click.IntRange(0, 16), default=0, help="Worker threads; 0: one for each CPU.")
@grouped(
    LIMITS,
    "--max-flows",
    type=click.IntRange(1, 100_000_000),
    default=_SETTINGS.engine.max_flows,
    help="Connections open at once; accepting pauses there. The limit of open files may allow fewer.",
)
@grouped(
    LIMITS,
    "--max-pipes",
    type=click.IntRange(0, 1 << 20),
    default=_SETTINGS.engine.max_pipes,
    help="Pipes for splice(2), two descriptors each; at the limit bytes are copied, with 0 all of them.",
)
@grouped(
    LIMITS,
    "--endpoint-drain",
    type=SecondsParam(0.0, 30 * _DAY),
    help="Seconds that connections to a removed endpoint may go on.  [default: until they end]",
)
@grouped(
    LIMITS,
    "--shutdown-deadline",
    type=SecondsParam(0.0, _DAY),
    default=_SETTINGS.shutdown,
    help="Seconds from SIGTERM until connections that are left are cut; a second SIGTERM cuts them at once.",
)
@node_options
@state_socket_option
@grouped(LOOKING, "--log-level", type=click.Choice(LEVELS), default="info", help="Least important messages to log.")
@grouped(LOOKING, "--log-format", type=click.Choice(FORMATS), default="text", help="Form of the log on stderr.")
def run(more_manifests: tuple[Path, ...], **options: Any) -> None:
    """Run the agent until SIGTERM or Ctrl-C.

    Services come from --manifests, from the cluster of --kubeconfig, or, with neither, from the cluster in whose Pod
    the agent runs. Each Service's ClusterIP is bound on this machine, unless --listen says what to serve where, or
    --capture tproxy makes the agent the service proxy of a node.

    \b
    Examples:
      spliceway run --manifests examples/
      spliceway run --kubeconfig ~/.kube/config --listen 0.0.0.0:8080=default/shop:http
      spliceway run --capture tproxy --kubeconfig FILE --hostname-override NODE --cluster-cidr 10.244.0.0/16
    """
    settings = build_settings(more_manifests, options)
    configure_logs(options["log_level"], options["log_format"])
    if options["init_only"]:
        apply_sysctls(settings.node)
        return
    warn_of_idle_options(click.get_current_context())
    import trio

    from spliceway.node.agent import run_agent

    trio.run(run_agent, settings)


def build_settings(more_manifests: tuple[Path, ...], options: dict[str, Any]) -> Settings:
    """One `Settings` of all options; what they contradict each other in is a usage error."""
    if more_manifests and not options["manifests"]:
        raise click.UsageError(f"Unexpected argument {str(more_manifests[0])!r}; did you mean --manifests?")
    manifests = (*options["manifests"], *more_manifests)
    if manifests and (options["kubeconfig"] or options["context"]):
        other = "--kubeconfig" if options["kubeconfig"] else "--context"
        raise click.UsageError(f"--manifests and {other} exclude each other: Services come from one place.")
    if manifests and options["master"]:
        raise click.UsageError("--manifests and --master exclude each other: Services come from one place.")
    if options["listen"] and options["capture"] == CaptureMode.TPROXY:
        raise click.UsageError("--listen opens ordinary sockets, which is --capture bind.")
    addresses = [listen.address for listen in options["listen"]]
    for address in addresses:
        if addresses.count(address) > 1:
            raise click.UsageError(f"--listen names {address} twice; one address serves one Service.")
    if not options["health_path"].startswith("/") or not _is_printable(options["health_path"]):
        raise click.BadParameter("it must begin with / and hold no spaces.", param_hint="'--health-path'")
    return Settings(
        source=SourceSettings(manifests, options["kubeconfig"], options["context"], options["master"]),
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
        engine=engine_settings(options),
        capture=capture_settings(options),
        node=node_settings(options, from_api=not manifests),
        admin=admin_settings(options),
    )


def _is_printable(path: str) -> bool:
    return all("!" <= character <= "~" for character in path)
