"""Keeps the present plans of everything, and brings them up to date where something changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec
import trio

from spliceway.diff import Desired, Step, diff
from spliceway.model import Fact, Node, ObjectKey, Problem, ServicePlan, Verdict
from spliceway.pace import Pace
from spliceway.plan.claims import Claims, IsLocal
from spliceway.plan.service import EmbeddedPool, PlanOptions, group_listens, plan_embedded, plan_service
from spliceway.settings import Listen
from spliceway.store import Store

#: plans that are settled together
PLANS_PER_FOLD = 50
#: more plans than this are compared in a thread
INLINE_PLANS = 1000

Plans = Mapping[ObjectKey, ServicePlan | None]


class Outcome(NamedTuple):
    """What one replanning changed: the plans before and after, and the steps between."""

    old: Plans
    new: Plans
    steps: tuple[Step, ...]


class Planning:
    """Store, plans and claims together. What is folded in marks plans dirty; `replan` makes those again.

    Services wait until the store is synced (U-30). Embedded pools do not: their program already said everything.
    ``is_local`` and ``loops`` as for `Claims`.
    """

    def __init__(
        self,
        options: PlanOptions,
        expected: tuple[str, ...],
        is_local: IsLocal = lambda host: False,
        *,
        loops: bool = True,
    ) -> None:
        self.store = Store(expected)
        #: the present plan of everything that asks for something, and the problems of those that have some
        self.plans: dict[ObjectKey, ServicePlan] = {}
        self.plan_problems: dict[ObjectKey, tuple[Problem, ...]] = {}
        self._options = options
        self._claims = Claims(is_local, loops=loops)
        self._node: Node | None = None
        self._embedded: dict[ObjectKey, EmbeddedPool] = {}
        self._dirty_services = set(options.listens or ())
        self._dirty_embedded: set[ObjectKey] = set()

    def fold(self, facts: Iterable[Fact]) -> None:
        """Take facts in."""
        self._dirty_services |= self.store.fold(facts)
        if self.store.node != self._node:
            self._node = self.store.node
            options = self._options.at_node(self._node)
            if options != self._options:  # the zone, the node's addresses or its podCIDRs: they concern every Service
                self._options = options
                self._dirty_services |= self.plans.keys()

    def fold_verdicts(self, verdicts: Iterable[Verdict]) -> None:
        """Take health's verdicts in."""
        for key in self.store.fold_verdicts(verdicts):
            (self._dirty_services if key.namespace else self._dirty_embedded).add(key)

    def embed(self, name: str, pool: EmbeddedPool | None) -> None:
        """Set or (None) forget the embedded pool ``name``."""
        key = ObjectKey("", name)
        self._dirty_embedded.add(key)
        if pool is None:
            self._embedded.pop(key, None)
        else:
            self._embedded[key] = pool

    def listen(self, listen: Listen, *, wanted: bool) -> None:
        """Put a Service behind an address, or (``wanted`` False) take it away."""
        key = ObjectKey(listen.namespace, listen.service)
        listens = dict(self._options.listens or {})
        others = tuple(each for each in listens.pop(key, ()) if each != listen)
        listens.update(group_listens((*others, listen) if wanted else others))
        self._options = msgspec.structs.replace(self._options, listens=listens)
        self._dirty_services.add(key)

    async def replan(self) -> Outcome:
        """Make dirty plans again, settle them with the others, and compare. ``plans`` is up to date afterwards."""
        dirty = self._dirty_embedded
        self._dirty_embedded = set()
        if self.store.synced:
            dirty |= self._dirty_services
            self._dirty_services = set()
        new = await self._settle(dirty)
        old = {key: self.plans.get(key) for key in new}
        steps = await _compare(old, new)
        for key, plan in new.items():
            self._adopt(key, plan)
        return Outcome(old, new, steps)

    async def _settle(self, dirty: set[ObjectKey]) -> dict[ObjectKey, ServicePlan | None]:
        pace = Pace()
        settled: dict[ObjectKey, ServicePlan | None] = {}
        made: dict[ObjectKey, ServicePlan | None] = {}
        for key in dirty:
            made[key] = self._plan(key)
            if len(made) >= PLANS_PER_FOLD:
                settled.update(self._claims.fold(made))
                made.clear()
                await pace.breathe()
        settled.update(self._claims.fold(made))
        return settled

    def _plan(self, key: ObjectKey) -> ServicePlan | None:
        if not key.namespace:
            embedded = self._embedded.get(key)
            return plan_embedded(embedded, self.store.unhealthy) if embedded else None
        plan = plan_service(self.store.view(key), self._options, self.store.unhealthy)
        return plan if plan.pools or plan.frontends or plan.problems else None

    def _adopt(self, key: ObjectKey, plan: ServicePlan | None) -> None:
        self.plan_problems.pop(key, None)
        if plan is None:
            self.plans.pop(key, None)
            return
        self.plans[key] = plan
        if plan.problems:
            self.plan_problems[key] = plan.problems


async def _compare(old: Plans, new: Plans) -> tuple[Step, ...]:
    def compare() -> tuple[Step, ...]:
        return diff(Desired.of(old.values()), Desired.of(new.values()))

    if len(new) <= INLINE_PLANS:
        return compare()
    return await trio.to_thread.run_sync(compare)
