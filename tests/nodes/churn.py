"""Changes of Services and slices in any order, by a seed: what users, controllers and roll-outs do, all at once."""

from __future__ import annotations

import random
import time
from collections import Counter

from cluster.api import Api, Object
from support.nodes import Host, Rig

from .services import Endpoint, Service, tcp, terminating, udp, unready

_POLICIES = ("Cluster", "Local")


class Churn:
    """One author of changes, with Services of its own, which are of IPv4 or of both families."""

    def __init__(self, api: Api, rig: Rig, seed: str, count: int) -> None:
        """``count``: how many Services it has, more or less, all the time."""
        self.changes: Counter[str] = Counter()
        self.services: list[Service] = []
        self._api = api
        self._places: list[Host] = list(rig.pods)
        self._random = random.Random(seed)
        self._seed = seed
        self._count = count
        self._number = 0

    def fill(self) -> None:
        """Create its Services."""
        while len(self.services) < self._count:
            self._create()

    def run(self, seconds: float, pause: float) -> None:
        """Make changes for so long, with a pause after each."""
        end = time.monotonic() + seconds
        kinds = {
            self._create: 2,
            self._delete: 2,
            self._change_endpoints: 10,
            self._change_ports: 2,
            self._change_type: 2,
            self._change_policies: 2,
            self._change_affinity: 1,
            self._drop_slice: 1,
        }
        while time.monotonic() < end:
            (change,) = self._random.choices(list(kinds), list(kinds.values()))
            change()
            self.changes[change.__name__.strip("_")] += 1
            time.sleep(pause)

    def clear(self) -> None:
        """Delete what is left."""
        while self.services:
            self._delete()

    def _some(self) -> Service:
        return self._random.choice(self.services)

    def _create(self) -> None:
        self._number += 1
        families = self._random.choice(((4,), (4,), (4, 6)))
        service = Service(self._api, f"churn-{self._seed}-{self._number}", families)
        ports = self._random.choice(([tcp()], [udp()], [tcp(), udp()]))
        service.create(*ports, type=self._random.choice(("ClusterIP", "ClusterIP", "NodePort")))
        service.endpoints(*self._endpoints())
        self.services.append(service)

    def _delete(self) -> None:
        if self.services:
            self.services.pop(self._random.randrange(len(self.services))).delete()

    def _change_endpoints(self) -> None:
        self._some().endpoints(*self._endpoints(), part=self._random.choice(("main", "main", "main", "other")))

    def _drop_slice(self) -> None:
        service = self._some()
        service.endpoints(part="main")
        service.remove_endpoints("main")

    def _endpoints(self) -> list[Endpoint]:
        places = self._random.sample(self._places, self._random.randint(0, 4))
        kinds = (Endpoint, Endpoint, Endpoint, terminating, unready, self._hinted)
        return [self._random.choice(kinds)(place) for place in places]

    def _hinted(self, place: Host) -> Endpoint:
        return Endpoint(place, zones=(self._random.choice(("zone-a", "zone-b", "zone-c")),))

    def _change_ports(self) -> None:
        service = self._some()
        number = self._random.randint(1, 1000)
        ports: list[Object] = [{**port, "port": number} for port in service.body["spec"]["ports"]]
        service.change(ports=ports)

    def _change_type(self) -> None:
        service = self._some()
        kind = self._random.choice(("ClusterIP", "NodePort", "LoadBalancer"))
        ports = service.body["spec"]["ports"]
        if kind == "ClusterIP":
            ports = [{**port, "nodePort": None} for port in ports]
            service.change(type=kind, ports=ports, externalTrafficPolicy=None)
        else:
            service.change(type=kind)

    def _change_policies(self) -> None:
        service = self._some()
        spec = {"internalTrafficPolicy": self._random.choice(_POLICIES)}
        if service.body["spec"]["type"] != "ClusterIP":
            spec["externalTrafficPolicy"] = self._random.choice(_POLICIES)
        service.change(**spec)

    def _change_affinity(self) -> None:
        sticky = {"sessionAffinity": "ClientIP"}
        self._some().change(**self._random.choice((sticky, {"sessionAffinity": "None", "sessionAffinityConfig": None})))
