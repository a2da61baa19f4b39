"""``spliceway check``: finds what is wrong with manifests without running anything."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from spliceway.cli.params import FilePathParam
from spliceway.model import EndpointSlice, KubernetesObject, ObjectKey, Problem, Service, ServicePlan, Upsert, kind_of
from spliceway.plan.claims import Claims
from spliceway.plan.service import PlanOptions, plan_service
from spliceway.store import Store


class Findings(NamedTuple):
    """What was found in all files together."""

    problems: list[Problem]
    services: int
    endpoints: int
    frontends: int

    @property
    def errors(self) -> int:
        """Problems that are not just warnings."""
        return sum(not problem.warning for problem in self.problems)


@click.command()
@click.argument("paths", nargs=-1, required=True, type=FilePathParam(), metavar="PATH...")
def check(paths: tuple[Path, ...]) -> None:
    """Check manifests as `run --manifests PATH...` would read them.

    Prints one line for each problem, as file:line: object: what is wrong, and a summary. Exit code 1 if anything is
    wrong; warnings, and kinds of object that are not read, do not count as wrong. Nodes are checked as well: `run`
    uses the one that it runs on.
    """
    findings = examine(manifest_files(paths))
    for problem in findings.problems:
        click.echo(problem_line(problem))
    warnings = len(findings.problems) - findings.errors
    click.echo(
        f"{_count(findings.services, 'Service')}, {_count(findings.endpoints, 'endpoint')}, "
        f"{_count(findings.frontends, 'frontend')}; {_count(findings.errors, 'error')}, {_count(warnings, 'warning')}"
    )
    if findings.errors:
        click.get_current_context().exit(1)


def problem_line(problem: Problem) -> str:
    """``file:line: subject: message``; a warning says that it is one, where compilers say it."""
    if not problem.warning:
        return str(problem)
    subject = f"warning: {problem.subject}" if problem.subject else "warning"
    return str(msgspec.structs.replace(problem, subject=subject))


def manifest_files(paths: Iterable[Path]) -> list[Path]:
    """Every file that is named, or lies in a folder that is named and has a manifest's name, as the file source's."""
    from spliceway.source.survey import is_manifest

    files: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = (each for each in path.iterdir() if is_manifest(each) and not each.is_dir())
            files.update(dict.fromkeys(sorted(inside)))
        else:
            files[path] = None
    return list(files)


def examine(files: Iterable[Path]) -> Findings:
    """Read, merge, plan, and settle; every problem gets the line of its object where it has one."""
    from spliceway.source.manifest import try_manifest

    store = Store()
    problems: list[Problem] = []
    places: dict[str, tuple[str, int]] = {}
    services: set[ObjectKey] = set()
    slices: list[EndpointSlice] = []
    for file in files:
        manifest = try_manifest(file)
        if isinstance(manifest, Problem):
            problems.append(manifest)
            continue
        problems.extend(manifest.problems)
        for each, line in zip(manifest.objects, manifest.lines, strict=True):
            places.setdefault(_subject(each), (str(file), line))
            if isinstance(each, Service):
                services.add(each.key)
            elif isinstance(each, EndpointSlice):
                slices.append(each)
        store.fold(Upsert(str(file), each) for each in manifest.objects)
    problems.extend(_placed(problem, places) for problem in store.problems())
    plans = _plans(store, services)
    for plan in plans:
        problems.extend(_placed(problem, places) for problem in plan.problems)
    problems.extend(_placed(problem, places) for problem in _orphans(slices, services))
    problems.extend(_placed(problem, places) for problem in _bare(plans, slices))
    states = [each for plan in plans for _, each in plan.endpoints]
    endpoints = sum(each.ready + each.terminating + each.unready for each in states)
    return Findings(problems, len(services), endpoints, sum(len(plan.frontends) for plan in plans))


def _plans(store: Store, services: Iterable[ObjectKey]) -> list[ServicePlan]:
    options = PlanOptions()
    made = {key: plan_service(store.view(key), options, store.unhealthy) for key in sorted(services)}
    return [plan for plan in Claims().fold(made).values() if plan]


def _orphans(slices: Iterable[EndpointSlice], services: set[ObjectKey]) -> Iterable[Problem]:
    for each in slices:
        owner = ObjectKey(each.key.namespace, each.service)
        if owner not in services:
            yield Problem(_subject(each), f"belongs to Service {owner}, which is not defined here", warning=True)


def _bare(plans: Iterable[ServicePlan], slices: Iterable[EndpointSlice]) -> Iterable[Problem]:
    owners = {ObjectKey(each.key.namespace, each.service) for each in slices}
    for plan in plans:
        if plan.frontends and plan.key not in owners:
            yield Problem(f"Service {plan.key}", "has no EndpointSlice: its clients are refused", warning=True)


def _placed(problem: Problem, places: dict[str, tuple[str, int]]) -> Problem:
    if problem.origin or problem.subject not in places:
        return problem
    origin, line = places[problem.subject]
    return Problem(problem.subject, problem.message, origin, line, problem.warning)


def _subject(each: KubernetesObject) -> str:
    return f"{kind_of(each)} {each.key}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
