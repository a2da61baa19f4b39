"""The load tool: built once from ``bench/load``, run as a process, its report parsed and judged."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
from processes import BenchError, output_of

SOURCE = Path(__file__).resolve().parent / "load"


class Report(msgspec.Struct, frozen=True):
    """What one run of a client command found. Times in seconds, sizes in bytes."""

    seconds: float
    #: verified replies in the measured window (bulk: streams; udp-trains: trains)
    requests: int
    #: verified payload in the measured window
    bytes: int
    #: by kind; any error makes a measurement worthless
    errors: dict[str, int]
    #: verified replies by backend
    servers: dict[str, int]
    p50: float
    p90: float
    p99: float
    p999: float
    max: float
    #: replies and errors of the requests begun in each second
    timeline: list[tuple[int, int]]
    #: how late the generator of a fixed rate itself was, at worst and the 99th percentile
    lag: float
    lag_p99: float

    @classmethod
    def parse(cls, text: str) -> Report:
        """Decode the tool's line of JSON."""
        try:
            report = msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError as error:
            raise BenchError(f"the load tool printed an unexpected report: {error}: {text[:200]!r}") from error
        if not report.requests and not report.errors:
            report.errors["no-reply"] = 1  # stuck before the first time-out
        return report

    def as_dict(self) -> dict[str, Any]:
        """The raw figures for the results file."""
        return {field: getattr(self, field) for field in self.__struct_fields__}


class LoadTool:
    """The built program."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def build(cls) -> LoadTool:
        """Build it with cargo; takes no time when nothing has changed.

        Raises:
            BenchError: cargo is missing or the build failed.
        """
        if shutil.which("cargo") is None:
            raise BenchError("the load tool needs cargo: install a Rust toolchain (rustup.rs or apt-get install cargo)")
        target = Path(os.environ.get("CARGO_TARGET_DIR", SOURCE / "target"))
        manifest = ["--manifest-path", str(SOURCE / "Cargo.toml"), "--target-dir", str(target)]
        output_of(["cargo", "build", "--quiet", "--release", "--locked", *manifest], timeout=600)
        return cls(target / "release" / "spliceway-load")
