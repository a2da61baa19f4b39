"""Carries out steps on capture and engine. The only writer of both, and the keeper of what became of each frontend."""

from spliceway.apply.applier import Applier
from spliceway.apply.bound import BoundFrontends
from spliceway.apply.captured import CapturedFrontends
from spliceway.apply.frontends import FAILED, REJECTING, SERVING, Frontends

__all__ = ["FAILED", "REJECTING", "SERVING", "Applier", "BoundFrontends", "CapturedFrontends", "Frontends"]
