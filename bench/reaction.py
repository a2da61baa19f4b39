"""How one contestant starts with all Services there, and how it follows changes."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import bigcluster
from bigcluster import CHANGING, CHANGING_VIP, SERVICE_PORT
from follow import Arrivals, FirstAnswer
from processes import BenchError, Child
from proxies import Contestant
from results import quantile
from rich.console import Console
from stands import Plane, Stand, Stands

from cluster.api import Api

#: Services asked by one process of the load tool (its command line is limited), and requests per second
TARGETS = 2000
RATE = 2000
#: of the addresses asked after the start, and of the pauses
SEED = 4
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
SERVICES = "/api/v1/namespaces/default/services"


class Place(NamedTuple):
    """A contestant on its stand, and the API server that it follows."""

    contestant: Contestant
    stand: Stand
    stands: Stands
    plane: Plane

    @property
    def name(self) -> str:
        """The contestant's."""
        return self.contestant.name


def one_turn(place: Place, services: int, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Start the contestant once, measure, and end it."""
    api = place.plane.api
    dice = random.Random(SEED)
    with ExitStack() as stack:
        client = place.stand.client.command(str(place.stands.load.path), "first")
        first = stack.enter_context(FirstAnswer(client))
        place.contestant.start(place.stand, place.stands, place.plane.kubeconfig)
        child = stack.enter_context(process_of(place.contestant))
        begun = begin(place, child, first, services, dice)
        console.print(
            f"{place.name:26} start {begun['seconds']:.2f} s, {begun['memory']['VmHWM'] / 1e6:.0f} MB, "
            f"{begun['unserved']} not served",
            highlight=False,
        )
        slices = stack.enter_context(watch(place.plane, SLICES, CHANGING))
        added_services = stack.enter_context(watch(place.plane, SERVICES, ""))
        changes = [change(api, first, slices, turn, pause(options, dice)) for turn in range(1, options.changes + 1)]
        told(console, place.name, "change", changes)
        added = [add(api, first, added_services, number, pause(options, dice)) for number in range(options.new)]
        told(console, place.name, "new Service", added)
        after = {"memory": child.memory(alone=True), "cpu_seconds": child.cpu_seconds()}
        log = child.log.read_text(errors="replace").splitlines()
    for number in range(options.new):
        api.delete("Service", bigcluster.new_service(number)["metadata"]["name"])
    api.replace(bigcluster.changing_slice(0)[0])
    return {"start": begun, "changes": changes, "new": added, "after": after, "log": [*log[:40], "...", *log[-20:]]}


def process_of(contestant: Contestant) -> Child:
    """The process of one that has been started. Raises BenchError if there is none."""
    if contestant.child is None:
        raise BenchError(f"{contestant.name} has no process whose start could be measured")
    return contestant.child


def begin(place: Place, child: Child, first: FirstAnswer, services: int, dice: random.Random) -> dict[str, Any]:
    """What the start took, and how many Services do not answer after it."""
    first.begin(f"{bigcluster.vip(dice.randrange(services))}:{SERVICE_PORT}", interval=0.005)
    try:
        seconds = first.result().at / 1e9 - child.started
    except BenchError as error:
        child.check()
        tail = child.log.read_text(errors="replace").strip()[-800:]
        raise BenchError(f"{place.name}: {error}; it said last: {tail}") from error
    sample = {"seconds": seconds, "memory": child.memory(alone=True), "cpu_seconds": child.cpu_seconds()}
    return {**sample, "unserved": unserved(place, services)}


def unserved(place: Place, services: int) -> int:
    """How many Services do not answer a verified reply."""
    answered = 0
    addresses = [f"{bigcluster.vip(number)}:{SERVICE_PORT}" for number in range(services)]
    for start in range(0, services, TARGETS):
        targets = addresses[start : start + TARGETS]
        arguments = ["paced", "--rate", str(RATE), "--seconds", str(len(targets) / RATE)]
        answered += place.stands.measure(place.stand, arguments, targets).requests
    return services - answered


def watch(plane: Plane, path: str, service: str) -> Arrivals:
    """A watch of the bench's own objects from now on."""
    selection = {"labelSelector": f"kubernetes.io/service-name={service}"} if service else {}
    version = plane.api.request("GET", f"{path}?limit=1")["metadata"]["resourceVersion"]
    return Arrivals(plane.kubeconfig, path, resourceVersion=version, **selection)


def pause(options: argparse.Namespace, dice: random.Random) -> float:
    """Seconds until the next change: not in step with anything."""
    return float(options.pause) + dice.uniform(0.0, 0.1)


def change(api: Api, first: FirstAnswer, slices: Arrivals, turn: int, wait: float) -> dict[str, float]:
    """The only endpoint of the changing Service is replaced."""
    body, server = bigcluster.changing_slice(turn)
    time.sleep(wait)
    first.begin(f"{CHANGING_VIP}:{SERVICE_PORT}", server)
    time.sleep(0.02)  # by now connections are made all the time
    begun = time.monotonic_ns()
    stored = api.replace(body)
    return timing(begun, time.monotonic_ns(), stored, first, slices)


def add(api: Api, first: FirstAnswer, services: Arrivals, number: int, wait: float) -> dict[str, float]:
    """A new Service."""
    body = bigcluster.new_service(number)
    time.sleep(wait)
    first.begin(f"{bigcluster.new_vip(number)}:{SERVICE_PORT}")
    time.sleep(0.02)
    begun = time.monotonic_ns()
    stored = api.create(body)
    return timing(begun, time.monotonic_ns(), stored, first, services)


def timing(
    begun: int, written: int, stored: dict[str, Any], first: FirstAnswer, arrivals: Arrivals
) -> dict[str, float]:
    """Seconds to the first right answer: from the request to the API server, from its answer, and from the event."""
    found = first.result()
    event = arrivals.at(stored["metadata"]["resourceVersion"])
    return {
        "request": (found.at - begun) / 1e9,
        "write": (found.at - written) / 1e9,
        "event": (found.at - event) / 1e9,
    }


def told(console: Console, name: str, what: str, samples: Sequence[dict[str, float]]) -> None:
    """One line in the terminal."""
    event = [sample["event"] for sample in samples]
    if event:
        median, high = quantile(event, 50) * 1e3, quantile(event, 99) * 1e3
        console.print(f"{name:26} {what}: p50 {median:.1f} ms, p99 {high:.1f} ms", highlight=False)
