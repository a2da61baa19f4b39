"""Takes one clear error out of the exception groups that nurseries raise."""

from __future__ import annotations

from spliceway.errors import SplicewayError


def clear_error(group: BaseExceptionGroup[BaseException]) -> SplicewayError | None:
    """The error to tell the user when nothing but spliceway's own errors are in ``group``; else None."""
    mine, rest = group.split(SplicewayError)
    if rest is not None:
        return None
    leaf: SplicewayError | BaseExceptionGroup[SplicewayError] | None = mine
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    return leaf
