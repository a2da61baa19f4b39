"""What a file that was edited means: what is good of it, and the last good version of what is not. Pure."""

from __future__ import annotations

import msgspec

from spliceway.model import Kind, KubernetesObject, ObjectKey, Problem, kind_of
from spliceway.source.manifest import Manifest
from spliceway.source.salvage import mistake

_Name = tuple[Kind, ObjectKey]
#: objects that a message names
_NAMED = 3


def with_last_good(
    manifest: Manifest, last: tuple[KubernetesObject, ...]
) -> tuple[tuple[KubernetesObject, ...], tuple[Problem, ...]]:
    """Return the objects and problems of a file whose objects were ``last`` before.

    An object with an error stays as it was. So do those that are missing while there is any error: a name that is
    mistyped takes an object away that nobody wanted to remove. What is new has no version to keep: it is used as far
    as it is good.
    """
    if not last or manifest.sound:
        return manifest.objects, manifest.problems
    before = {_name(made): made for made in last}
    bad = {*manifest.rejected, *manifest.salvaged}
    objects = {_name(made): made for made in manifest.objects}
    faulty = [name for name in before if name in bad]
    missing = [name for name in before if name not in objects and name not in bad]
    objects.update((name, before[name]) for name in (*faulty, *missing))
    subjects = {_subject(name) for name in faulty}
    problems = [_kept(problem) if problem.subject in subjects else problem for problem in manifest.problems]
    if missing:
        problems.append(_missing(missing, manifest))
    return tuple(objects.values()), tuple(problems)


def _kept(problem: Problem) -> Problem:
    if problem.warning:
        return problem
    return msgspec.structs.replace(problem, message=f"{mistake(problem.message)}; keeping its last good version")


def _missing(names: list[_Name], manifest: Manifest) -> Problem:
    shown = ", ".join(_subject(name) for name in names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    message = f"{shown}{more} cannot be found in it any more; kept until its errors are mended"
    return Problem("", message, str(manifest.path), warning=True)


def _name(made: KubernetesObject) -> _Name:
    return (kind_of(made), made.key)


def _subject(name: _Name) -> str:
    return f"{name[0]} {name[1]}"
