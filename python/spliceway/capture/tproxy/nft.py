"""Runs the ``nft`` program. Blocking, with a time-out."""

from __future__ import annotations

import os
import shutil
import subprocess

from spliceway.capture.tproxy.layout import FAMILY, TABLE
from spliceway.errors import FrontendError

#: what an error message may quote of nft's
_QUOTED = 300


class NftError(FrontendError):
    """``nft`` is missing, refused a transaction (nothing of it holds), or took too long (all may hold, or nothing)."""


def require_nft() -> None:
    """Raise `NftError` when there is no ``nft`` on this machine."""
    if shutil.which("nft") is None:
        raise NftError("the program nft was not found; install the package nftables (version 1.0.1 or later)")


def probe_nft(timeout: float) -> None:
    """Raise `NftError` when ``nft`` is missing, not permitted, or of no use on this kernel."""
    require_nft()
    _run(["list", "tables"], "", timeout)


def run_nft(script: str, timeout: float) -> None:
    """Carry out ``script`` as one transaction.

    Raises:
        NftError: it does not hold; the text says why.
    """
    _run(["-f", "-"], script, timeout)


def list_table(timeout: float) -> bytes | None:
    """The table with its elements as JSON; None when it does not exist."""
    try:
        return _run(["-j", "list", "table", FAMILY, TABLE], "", timeout)
    except NftError as error:
        if "No such file or directory" in str(error):
            return None
        raise


def _run(arguments: list[str], script: str, timeout: float) -> bytes:
    try:
        done = subprocess.run(
            ["nft", *arguments],
            input=script.encode(),
            capture_output=True,
            timeout=timeout,
            check=False,
            env=os.environ | {"LC_ALL": "C"},
        )
    except FileNotFoundError:
        require_nft()
        raise NftError("the program nft was not found") from None
    except subprocess.TimeoutExpired:
        raise NftError(f"nft did not end within {timeout:g} s") from None
    except OSError as error:
        raise NftError(f"nft cannot be started: {error.strerror or error}") from None
    if done.returncode:
        raise NftError(_reason(done.stderr.decode(errors="replace")))
    return done.stdout


def _reason(text: str) -> str:
    """nft prints the place, the reason, and then the line of the script, which may have thousands of elements."""
    first = next((line for line in text.splitlines() if "rror" in line), text.strip())
    reason = first.partition("rror: ")[2] or first
    if "Operation not permitted" in reason:
        return "the program nft is not permitted to work; the agent needs CAP_NET_ADMIN in the node's network namespace"
    return f"the program nft says: {reason[:_QUOTED]}"
