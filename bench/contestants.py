"""Ways to carry a client's bytes to one of three backends."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence

import agent
import manifests
from processes import BenchError, Child, output_of
from rig import SERVICE_PORT, Rig


class Contestant(ABC):
    """One way. `missing` is asked first; then `start` once, `activate` and `deactivate` around each measurement."""

    name: str
    #: the daemon whose CPU time and memory are of interest
    child: Child | None = None

    def missing(self, _rig: Rig) -> str | None:
        """Why it cannot take part and what to do about it, or None."""
        return None

    @abstractmethod
    def start(self, rig: Rig) -> None:
        """Start it; it answers soon after."""

    @abstractmethod
    def targets(self, rig: Rig) -> Sequence[str]:
        """The addresses that clients dial."""

    def activate(self, _rig: Rig) -> None:
        """Make ready for a measurement."""
        return

    def deactivate(self, _rig: Rig) -> None:
        """Leave no trace that would slow another contestant down."""
        return

    def version(self) -> str:
        """Version of the software measured."""
        return ""

    def statistics(self) -> dict[str, int]:
        """The contestant's own counters, where it has any."""
        return {}


class Direct(Contestant):
    """Clients dial the backends themselves, in turn: what the machine can do at best."""

    name = "direct"

    def start(self, rig: Rig) -> None:
        """There is nothing to start."""

    def targets(self, rig: Rig) -> Sequence[str]:
        return rig.backends


class KernelDnat(Contestant):
    """nftables DNAT to a random backend, the data path of kube-proxy; its table exists only while it is measured."""

    name = "dnat"
    _VIP = "198.18.3.1"

    def missing(self, rig: Rig) -> str | None:
        if not rig.isolated:
            return "it needs namespaces of its own: run as root"
        return None if shutil.which("nft") else "nft is not installed: apt-get install nftables"

    def start(self, rig: Rig) -> None:
        # conntrack entries of ended connections would fill its table within a few rounds
        self.activate(rig)
        time_wait = "echo 1 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait"
        output_of(rig.command("proxy", ["sh", "-ec", time_wait]))
        self.deactivate(rig)

    def targets(self, rig: Rig) -> Sequence[str]:
        return [f"{self._VIP}:{SERVICE_PORT}"]

    def activate(self, rig: Rig) -> None:
        hosts = (backend.rpartition(":") for backend in rig.backends)
        choice = ", ".join(f"{number} : {host} . {port}" for number, (host, _, port) in enumerate(hosts))
        rules = f"""table ip spliceway-bench {{
            chain services {{
                type nat hook prerouting priority dstnat;
                ip daddr {self._VIP} tcp dport {SERVICE_PORT} \
                    dnat to numgen random mod {len(rig.backends)} map {{ {choice} }}
            }}
        }}"""
        output_of(rig.command("proxy", ["nft", rules]))

    def deactivate(self, rig: Rig) -> None:
        output_of(rig.command("proxy", ["nft", "delete table ip spliceway-bench"]))

    def version(self) -> str:
        return output_of(["nft", "--version"]).strip()


class Haproxy(Contestant):
    """haproxy in TCP mode with splicing and two threads."""

    name = "haproxy"
    _CONFIGURATION = """
global
    nbthread 2
    maxconn 4000
defaults
    mode tcp
    balance roundrobin
    option splice-auto
    option redispatch
    retries 3
    timeout connect 1s
    timeout client 1h
    timeout server 1h
listen bench
    bind {bind}
"""

    def missing(self, _rig: Rig) -> str | None:
        return None if shutil.which("haproxy") else "haproxy is not installed: apt-get install haproxy"

    def start(self, rig: Rig) -> None:
        path = rig.folder / "haproxy.cfg"
        servers = (f"    server b{number} {backend}\n" for number, backend in enumerate(rig.backends))
        path.write_text(self._CONFIGURATION.format(bind=self.targets(rig)[0]) + "".join(servers))
        self.child = rig.start(self.name, "proxy", ["haproxy", "-db", "-f", str(path)])

    def targets(self, rig: Rig) -> Sequence[str]:
        return [rig.service_address(1)]

    def version(self) -> str:
        return output_of(["haproxy", "-v"]).splitlines()[0]


class Spliceway(Contestant):
    """The spliceway agent on a manifest with one Service."""

    name = "spliceway"
    annotations: dict[str, str] = {}  # noqa: RUF012  (subclasses replace it)
    number = 2

    def missing(self, _rig: Rig) -> str | None:
        return agent.missing()

    def start(self, rig: Rig) -> None:
        host, _, port = self.targets(rig)[0].rpartition(":")
        backends = [backend.rpartition(":") for backend in rig.backends]
        objects = [
            manifests.service("bench", host, int(port), annotations=self.annotations),
            manifests.endpoint_slice("bench", [backend[0] for backend in backends], int(backends[0][2])),
        ]
        path = rig.folder / f"{self.name}.json"
        manifests.write(path, objects)
        self._socket = rig.folder / f"{self.name}.sock"
        self.child = rig.start(self.name, "proxy", agent.command([path], self._socket), agent.environment())

    def targets(self, rig: Rig) -> Sequence[str]:
        return [rig.service_address(self.number)]

    def version(self) -> str:
        return agent.version()

    def statistics(self) -> dict[str, int]:
        return agent.pool_totals(agent.status(self._socket))


class SplicewayReplay(Spliceway):
    """The same with replay: a request whose backend died before it answered goes to another one."""

    name = "spliceway-replay"
    annotations = {"spliceway.io/replay": "true"}  # noqa: RUF012
    number = 3


ALL: dict[str, type[Contestant]] = {
    kind.name: kind for kind in (Direct, KernelDnat, Haproxy, Spliceway, SplicewayReplay)
}


def start_all(names: Sequence[str], rig: Rig) -> tuple[list[Contestant], dict[str, str]]:
    """Start those that can take part and wait until each has answered; tell why the others cannot.

    Raises:
        BenchError: one started but does not answer.
    """
    present: list[Contestant] = []
    absent: dict[str, str] = {}
    for name in names:
        contestant = ALL[name]()
        why = contestant.missing(rig)
        if why is not None:
            absent[name] = why
            continue
        contestant.start(rig)
        contestant.activate(rig)
        await_answer(contestant, rig)
        contestant.deactivate(rig)
        present.append(contestant)
    return present, absent


def await_answer(contestant: Contestant, rig: Rig) -> None:
    """Wait until a client gets a reply through the contestant."""
    targets = contestant.targets(rig)
    if contestant.child is not None:
        contestant.child.wait_until(lambda: rig.answers(targets), "answering a client", step=0.05)
    elif not rig.answers(targets):
        raise BenchError(f"{contestant.name} does not carry a client's request")
