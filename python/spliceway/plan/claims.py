"""Settles what concerns several Services at once: two claimants of one frontend, and loops. Pure.

Everything is indexed by what can collide, so an update costs what changed and not what exists.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from typing import Generic, TypeVar

import msgspec

from spliceway.model import (
    Address,
    ExternalRoute,
    Frontend,
    FrontendKey,
    FrontendKind,
    FrontendVerdict,
    ObjectKey,
    PoolSpec,
    Problem,
    Protocol,
    ServicePlan,
)

_Key = TypeVar("_Key", bound=Hashable)

#: whether a host is an address of this machine
IsLocal = Callable[[str], bool]


class _Users(Generic[_Key]):
    """Which plans use a thing. Nearly always it is one, so only several cost a set."""

    def __init__(self) -> None:
        self.held: dict[_Key, ObjectKey | set[ObjectKey]] = {}

    def add(self, thing: _Key, user: ObjectKey) -> None:
        held = self.held.get(thing)
        if held is None:
            self.held[thing] = user
        elif isinstance(held, set):
            held.add(user)
        elif held != user:
            self.held[thing] = {held, user}

    def discard(self, thing: _Key, user: ObjectKey) -> None:
        held = self.held.get(thing)
        if isinstance(held, set):
            held.discard(user)
            if len(held) == 1:
                self.held[thing] = held.pop()
        elif held == user:
            del self.held[thing]

    def get(self, thing: _Key) -> Collection[ObjectKey]:
        held = self.held.get(thing)
        if held is None:
            return ()
        return held if isinstance(held, set) else (held,)


class Claims:
    """Holds every plan as it was planned, and tells what of it can stand beside the others.

    - Two Services that ask for one address and protocol: the one whose ClusterIP it is gets it, then the one created
      first, then the one whose namespace/name sorts first (S-14). The other one's frontend is left out. A wildcard and
      an address of its own are no conflict: the exact one goes before (D-01).
    - A backend that is a frontend of ours would send a flow round in circles: it is left out of its pool. Not with
      ``loops`` False: capture that knows its own upstream sockets never takes them in again.

    ``is_local`` tells which hosts a wildcard frontend takes besides loopback and the addresses of other frontends.
    """

    def __init__(self, is_local: IsLocal = lambda host: False, *, loops: bool = True) -> None:
        self._is_local_host = is_local
        self._loops = loops
        self._plans: dict[ObjectKey, ServicePlan] = {}
        self._claimants: _Users[FrontendKey] = _Users()
        #: by hash of (host, port): a number costs a third of a tuple, and a false hit only a look more
        self._backend_users: _Users[int] = _Users()
        #: frontends on 0.0.0.0 or ::, which take every local address of their port
        self._wildcards: set[FrontendKey] = set()

    def fold(self, changes: Mapping[ObjectKey, ServicePlan | None]) -> dict[ObjectKey, ServicePlan | None]:
        """Take changed plans in (None: gone); return the settled plans of these and of all others that they affect."""
        affected = dict.fromkeys(changes)
        touched: set[FrontendKey] = set()
        for key, plan in changes.items():
            touched |= self._replace(key, plan)
        for frontend in touched:
            affected.update(dict.fromkeys(self._claimants.get(frontend)))
            affected.update(dict.fromkeys(self._backend_users.get(hash(frontend.address))))
        if self._loops and touched and (self._wildcards or any(is_wildcard(each.address.host) for each in touched)):
            # Gateways have few plans; what a wildcard covers depends on all frontends.
            affected.update(dict.fromkeys(self._plans))
        return {key: self._settle(self._plans[key]) if key in self._plans else None for key in affected}

    def _replace(self, key: ObjectKey, plan: ServicePlan | None) -> set[FrontendKey]:
        """Exchange a plan in the indexes; return the frontends whose claimants may have changed."""
        old = self._plans.pop(key, None)
        if plan is not None:
            self._plans[key] = plan
        before, after = _keys(old), _keys(plan)
        for frontend in before - after:
            self._claimants.discard(frontend, key)
            if frontend not in self._claimants.held:
                self._wildcards.discard(frontend)
        for frontend in after - before:
            self._claimants.add(frontend, key)
            if self._loops and is_wildcard(frontend.address.host):
                self._wildcards.add(frontend)
        if self._loops:
            used, uses = _backend_hashes(old), _backend_hashes(plan)
            for number in used - uses:
                self._backend_users.discard(number, key)
            for number in uses - used:
                self._backend_users.add(number, key)
        if old and plan and old.created != plan.created:
            return before | after
        return before ^ after

    def _settle(self, plan: ServicePlan) -> ServicePlan:
        problems: list[Problem] = []
        frontends = self._held(plan, problems)
        pools = [self._without_loops(plan.key, pool, problems) for pool in plan.pools] if self._loops else plan.pools
        if not problems:
            return plan
        empty = {pool.name for pool in pools if not pool.usable}
        return msgspec.structs.replace(
            plan,
            pools=tuple(pools),
            frontends=tuple(_refused(each, empty) for each in frontends),
            problems=(*plan.problems, *problems),
        )

    def _held(self, plan: ServicePlan, problems: list[Problem]) -> list[Frontend]:
        """The frontends that ``plan`` gets."""
        frontends: dict[FrontendKey, Frontend] = {}
        for each in plan.frontends:
            key = each.key
            winner = self._winner(key)
            if winner not in (None, plan.key):
                message = f"asks for {key}, which {_subject(winner)} has; give one of them another address or port"
                problems.append(Problem(_subject(plan.key), message))
            elif key in frontends:
                problems.append(Problem(_subject(plan.key), f"asks for {key} twice; the first one is used"))
            else:
                frontends[key] = each
        return list(frontends.values())

    def _winner(self, frontend: FrontendKey) -> ObjectKey | None:
        """Who of those that ask for ``frontend`` gets it; None when nobody does."""
        claimants = self._claimants.get(frontend)
        if len(claimants) < 2:
            return next(iter(claimants), None)
        return min(claimants, key=lambda key: self._precedence(key, frontend))

    def _precedence(self, key: ObjectKey, frontend: FrontendKey) -> tuple[bool, bool, str, ObjectKey]:
        """A ClusterIP comes before an external IP that somebody wrote down: the API gave it to one Service only."""
        plan = self._plans[key]
        given = any(each.key == frontend and each.kind is FrontendKind.CLUSTER_IP for each in plan.frontends)
        return (not given, not plan.created, plan.created, key)

    def _without_loops(self, key: ObjectKey, pool: PoolSpec, problems: list[Problem]) -> PoolSpec:
        # Without wildcards a look into one dict clears nearly every backend.
        protocol, claimed = pool.protocol, self._claimants.held
        suspects = [each for each in pool.backends if self._wildcards or (each[:2], protocol) in claimed]
        loops = {each.address: owner for each in suspects if (owner := self._owner(each.address, protocol))}
        if not loops:
            return pool
        for address, owner in loops.items():
            message = f"endpoint {address} of {pool.name} is a frontend of {owner} here, a loop; it is left out"
            problems.append(Problem(_subject(key), message))
        backends = tuple(each for each in pool.backends if each.address not in loops)
        return msgspec.structs.replace(pool, backends=backends)

    def _owner(self, address: Address, protocol: Protocol) -> str:
        """Who serves ``address`` on this machine, as far as the frontends tell; empty for nobody."""
        for frontend in (FrontendKey(address, protocol), *self._covering(address, protocol)):
            if winner := self._winner(frontend):
                return _subject(winner)
        return ""

    def _covering(self, address: Address, protocol: Protocol) -> Iterator[FrontendKey]:
        """The wildcard frontends that take clients of ``address``."""
        for wildcard in wildcards_of(address):
            frontend = FrontendKey(wildcard, protocol)
            if frontend in self._wildcards and self._is_local(address.host):
                yield frontend

    def _is_local(self, host: str) -> bool:
        """Loopback, an address that another frontend binds, or another one of this machine."""
        if is_loopback(host):
            return True
        if any(each.address.host == host for plan in self._plans.values() for each in plan.frontends):
            return True
        return self._is_local_host(host)


def is_loopback(host: str) -> bool:
    """True for addresses that every machine has for itself."""
    return ipaddress.ip_address(host).is_loopback


def wildcards_of(address: Address) -> tuple[Address, ...]:
    """The wildcard addresses that take connections to ``address`` when it is local; ``::`` takes both families."""
    both = Address("::", address.port)
    return (both,) if ":" in address.host else (both, Address("0.0.0.0", address.port))


def is_wildcard(host: str) -> bool:
    """True for the two addresses that mean every local address."""
    return host in ("0.0.0.0", "::")


def _keys(plan: ServicePlan | None) -> set[FrontendKey]:
    return {each.key for each in plan.frontends} if plan else set()


def _backend_hashes(plan: ServicePlan | None) -> set[int]:
    return {hash((each.host, each.port)) for pool in plan.pools for each in pool.backends} if plan else set()


def _refused(frontend: Frontend, empty: Collection[str]) -> Frontend:
    """``frontend``, whose clients are refused where their pool is one of the ``empty`` ones."""
    if frontend.keep_open:
        return frontend
    verdict, external = frontend.verdict, frontend.external
    if frontend.pool in empty and verdict is FrontendVerdict.SERVE:
        verdict = FrontendVerdict.REJECT
    if external and external.pool in empty and external.verdict is FrontendVerdict.SERVE:
        external = ExternalRoute(external.pool, FrontendVerdict.REJECT)
    if (verdict, external) == (frontend.verdict, frontend.external):
        return frontend
    return msgspec.structs.replace(frontend, verdict=verdict, external=external)


def _subject(key: ObjectKey) -> str:
    return f"Service {key}" if key.namespace else f"Pool {key.name}"
