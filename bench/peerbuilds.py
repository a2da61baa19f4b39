"""The contestants that no distribution has are built from source, into the cache that the cluster tests use too."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

from processes import BenchError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from cluster.build import BuildError, cache_root, compile_program, go_environment, require_go

USERSPACE_SOURCE = Path(__file__).resolve().parent / "userspace"
SOZU_VERSION = "2.3.3"
#: Its option for TCP proxies: bytes go from socket to socket through a pipe, as they do in the other contestants.
_SOZU_FEATURES = "splice"
#: How its own repository builds a release; the published crate does not say so.
_SOZU_PROFILE = {"CARGO_PROFILE_RELEASE_LTO": "true", "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "1"}

#: what can be built, and how long that takes on two cores
NAMES = {"userspace": "1 minute", "sozu": "10 minutes"}


def path(name: str) -> Path:
    """Where the program is or will be; another source or version has another place."""
    if name == "sozu":
        return _folder(name) / "bin" / name
    return _folder(name) / name


def missing(name: str) -> str | None:
    """Why it cannot be run and what to do about it, or None."""
    return None if path(name).exists() else "it is not built: run python bench/run.py peers"


def build(name: str) -> Path:
    """Build a program unless it is there, with progress on stderr, and return its path.

    Raises:
        BenchError: a compiler is missing, fails, or takes too long.
    """
    target = path(name)
    if target.exists():
        return target
    _folder(name).mkdir(parents=True, exist_ok=True)
    try:
        if name == "sozu":
            _build_sozu(_folder(name))
        else:
            _build_userspace(target)
    except BuildError as error:
        raise BenchError(str(error)) from error
    return target


def _folder(name: str) -> Path:
    if name == "sozu":
        return cache_root() / "peers" / f"sozu-{SOZU_VERSION}-{_SOZU_FEATURES}"
    source = hashlib.sha256()
    for file in ("go.mod", "go.sum", "main.go"):
        source.update((USERSPACE_SOURCE / file).read_bytes())
    return cache_root() / "peers" / f"userspace-{source.hexdigest()[:16]}"


def _build_userspace(target: Path) -> None:
    require_go(USERSPACE_SOURCE)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    command = ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(partial), "."]
    try:
        compile_program("userspace", command, USERSPACE_SOURCE, go_environment())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _build_sozu(folder: Path) -> None:
    if shutil.which("cargo") is None:
        raise BenchError("sozu needs cargo: install a Rust toolchain (rustup.rs or apt-get install cargo)")
    if not os.environ.get("PROTOC") and shutil.which("protoc") is None:
        raise BenchError("sozu needs protoc to be built: apt-get install protobuf-compiler")
    objects = folder / "target"
    command = ["cargo", "install", "sozu", "--locked", "--quiet", "--version", SOZU_VERSION]
    command += ["--features", _SOZU_FEATURES, "--root", str(folder), "--target-dir", str(objects)]
    compile_program("sozu", command, folder, {**os.environ, **_SOZU_PROFILE})
    shutil.rmtree(objects)  # kept so far, so that a build that was interrupted goes on where it was
