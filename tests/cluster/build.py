#!/usr/bin/env python3
"""Build the real control-plane programs that the cluster tests run.

Usage: python3 tests/cluster/build.py [NAME ...]     (default: kube-apiserver etcd)

The versions are those of controlplane/go.mod. The binaries go to a cache outside the repository, in a directory named
after the content of go.mod and go.sum, so another pin never meets old binaries. Progress goes to stderr; the directory
is the only line on stdout. Exit code 1 with one sentence when `go` is missing, too old or fails.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

MODULE = Path(__file__).resolve().parent / "controlplane"

PACKAGES = {
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    "etcd": "go.etcd.io/etcd/server/v3",
}
DEFAULT_NAMES = ("kube-apiserver", "etcd")

BUILD_LIMIT_SECONDS = 45 * 60.0  # one program; a cold build of the largest takes about 5 minutes on 2 cores
PROGRESS_SECONDS = 20.0
GO_QUESTION_SECONDS = 30.0


class BuildError(Exception):
    """The programs cannot be built; the message is one sentence for the user."""


def binaries_directory() -> Path:
    """Return where the binaries of the present pin are or will be; it need not exist."""
    pin = hashlib.sha256()
    for name in ("go.sum", "go.mod"):
        pin.update((MODULE / name).read_bytes())
    return cache_root() / "controlplane" / pin.hexdigest()[:16]


def build(names: list[str]) -> Path:
    """Build those of `names` that the cache lacks and return their directory. Raises BuildError."""
    unknown = [name for name in names if name not in PACKAGES]
    if unknown:
        raise BuildError(f"Unknown program {', '.join(unknown)}: the known ones are {', '.join(PACKAGES)}.")
    directory = binaries_directory()
    missing = [name for name in names if not (directory / name).exists()]
    if missing:
        require_go(MODULE)
        directory.mkdir(parents=True, exist_ok=True)
        say(f"building {', '.join(missing)} in {directory}; the first time takes about 5 minutes on 2 cores")
    for name in missing:
        _build_one(name, directory / name)
    return directory


def _build_one(name: str, target: Path) -> None:
    """Compile one program beside `target`, then rename: a reader sees the whole file or none."""
    partial = target.with_name(f".{name}.{os.getpid()}.partial")
    version = _kubernetes_version()
    command = ["go", "build", "-trimpath", "-ldflags", _linker_flags(version), "-o", str(partial), PACKAGES[name]]
    try:
        compile_program(name, command, MODULE, go_environment())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def compile_program(name: str, command: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Run the compiler's `command` in `folder` to its end, saying every now and then that it still works.

    Raises BuildError when it fails or takes longer than BUILD_LIMIT_SECONDS.
    """
    say(f"{name}: building")
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=sys.stderr)
    try:
        while True:
            try:
                code = process.wait(PROGRESS_SECONDS)
                break
            except subprocess.TimeoutExpired:
                elapsed = time.monotonic() - started
                if elapsed > BUILD_LIMIT_SECONDS:
                    raise BuildError(f"Building {name} did not end within {BUILD_LIMIT_SECONDS:.0f} s.") from None
                say(f"{name}: still building after {elapsed:.0f} s")
    finally:
        _interrupt(process)
    if code != 0:
        shown = " ".join(command[:2])
        raise BuildError(f"Building {name} failed: `{shown}` ended with code {code}, see its messages above.")
    say(f"{name}: built in {time.monotonic() - started:.0f} s")


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """End a compiler's driver if it still runs. It passes an interrupt on to its compilers, as it would not a kill."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(10.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10.0)


def require_go(module: Path) -> None:
    """Raise BuildError unless `go` is on the PATH and not older than the go.mod of the folder `module` asks for."""
    wanted = _pinned(module, r"^go (\d+\.\d+)")
    question = ["go", "env", "GOVERSION"]
    try:
        answer = subprocess.run(
            question, env=go_environment(), capture_output=True, text=True, timeout=GO_QUESTION_SECONDS, check=True
        ).stdout.strip()
    except FileNotFoundError:
        raise BuildError(f"Building {module.name} needs Go {wanted} or newer, and there is no `go` here.") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"Building {module.name} needs Go {wanted} or newer, and `go` fails: {error}.") from None
    found = re.search(r"go(\d+)\.(\d+)", answer)
    if found is None or (int(found[1]), int(found[2])) < tuple(int(part) for part in wanted.split(".")):
        raise BuildError(f"Building {module.name} needs Go {wanted} or newer, and `go` here is {answer}.")


def go_environment() -> dict[str, str]:
    """Return the environment of `go`: what the machine has, without what would change the result."""
    environment = dict(os.environ)
    environment["CGO_ENABLED"] = "0"
    environment["GOWORK"] = "off"
    environment["GOTOOLCHAIN"] = "local"  # say "too old" rather than download another compiler
    return environment


def _linker_flags(version: str) -> str:
    """Return the linker flags for Kubernetes `version` (as v1.37.2).

    Without a version in the binary the API server takes itself for v0.0.0 and does not start properly. etcd carries its
    own version and ignores these.
    """
    major, minor = version.removeprefix("v").split(".")[:2]
    variables = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    settings = [f"-X k8s.io/component-base/version.{name}={value}" for name, value in variables.items()]
    return " ".join(["-s", "-w", *settings])


def _kubernetes_version() -> str:
    """Return the pinned version of Kubernetes, as v1.37.2."""
    return _pinned(MODULE, r"^\s*k8s\.io/kubernetes (v\S+)")


def _pinned(module: Path, pattern: str) -> str:
    """Return what the group of `pattern` matches in the go.mod of `module`. Raises BuildError."""
    found = re.search(pattern, (module / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise BuildError(f"{module / 'go.mod'} has no line like {pattern}.")
    return found[1]


def cache_root() -> Path:
    """Return the project's cache directory; an empty variable counts as unset, as in a shell's ${NAME:-…}."""
    own = os.environ.get("SPLICEWAY_CACHE")
    if own:
        return Path(own).absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).absolute() if shared else Path.home() / ".cache") / "spliceway"


def say(line: str) -> None:
    """Print a progress line at once, on stderr so that stdout carries only the directory."""
    print(f"build: {line}", file=sys.stderr, flush=True)


def main() -> int:
    """Build what the command line names and return the exit code."""
    try:
        print(build(sys.argv[1:] or list(DEFAULT_NAMES)))
    except BuildError as error:
        print(f"build: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
