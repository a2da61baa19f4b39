"""A real etcd and a real kube-apiserver on loopback, for the cluster tests.

    with ControlPlane() as plane, Api(plane.kubeconfig) as api:
        api.create({"kind": "Service", ...})

The programs come from build.py. There are no controllers besides those inside the API server: tests write
EndpointSlices by hand, with the label `kubernetes.io/service-name`.

What the API server checks, and so what tests can use: a ClusterIP, a load balancer's IP and a Node's address may be
on 127.0.0.0/8, which an agent can bind without privileges (hence SERVICE_RANGE); the address of an endpoint and an
external IP may not.
"""

from __future__ import annotations

import base64
import http.client
import json
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from .api import Api, ApiError, ApiUnreachableError, Object
from .build import binaries_directory

LOOPBACK = "127.0.0.1"
SERVICE_RANGE = "127.64.0.0/16"

# What default/kubernetes has as its endpoint. Nobody listens there: the real one is on loopback, which the API server
# does not take. It must be given, for it would look for a default route, and a network namespace of a test has none.
ADVERTISED_ADDRESS = "198.18.0.1"

START_SECONDS = 45.0  # for each step; usually 3 s in all, more on a machine that compiles at the same time
STOP_SECONDS = 15.0
POLL_SECONDS = 0.05
PROBE_SECONDS = 2.0
LOG_TAIL_LINES = 30

ADMIN_USER = "admin"
LIMITED_USER = "spliceway-limited"
LIMITED_RULES: Sequence[Object] = (
    {"apiGroups": [""], "resources": ["services", "nodes"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]},
)

# Ends a process when the test process is gone, however that went: then its end of the pipe is closed and `read` fails.
# An orderly stop writes a line instead.
_GUARD = 'read -r _ || kill -9 "$1"'


class ControlPlaneError(Exception):
    """The control plane does not start or stop; the message has the end of the log of the program at fault."""


class ControlPlane:
    """etcd and kube-apiserver as two processes, with three identities in kubeconfig files.

    Attributes:
        directory: holds everything below and the logs etcd.log and kube-apiserver.log.
        server: the URL of the API server; the same over restarts.
        kubeconfig: may do everything (system:masters).
        limited_kubeconfig: may do what `limited_rules` says, as an agent in a cluster.
        refused_kubeconfig: has a token that the API server answers with 401.

    Use it as a context manager. The processes also end when the test process is killed.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        address: str = LOOPBACK,
        service_range: str = SERVICE_RANGE,
        limited_rules: Sequence[Object] = LIMITED_RULES,
        apiserver_flags: Sequence[str] = (),
        binaries: Path | None = None,
    ) -> None:
        """Prepare; nothing runs before start().

        `directory` is a fresh directory which stays (for a look at the logs); None makes a temporary one which stop()
        removes. `address` is where the API server listens. `service_range` is where ClusterIPs come from, one range or
        "v4,v6". `apiserver_flags` are added last. `binaries` holds the programs; None is where build.py puts them.
        Raises ControlPlaneError if they are missing.
        """
        programs = binaries if binaries is not None else binaries_directory()
        missing = [name for name in ("etcd", "kube-apiserver") if not (programs / name).exists()]
        if missing:
            raise ControlPlaneError(f"{', '.join(missing)} not built yet: run `python3 tests/cluster/build.py` first.")
        client_port, peer_port, self._port = _free_ports(3)
        self._temporary = directory is None
        self.directory = Path(tempfile.mkdtemp(prefix="spliceway-cluster-")) if directory is None else directory
        self.kubeconfig = self.directory / "admin.kubeconfig"
        self.limited_kubeconfig = self.directory / "limited.kubeconfig"
        self.refused_kubeconfig = self.directory / "refused.kubeconfig"
        self._limited_rules = limited_rules
        self._tokens = {name: secrets.token_hex(16) for name in (ADMIN_USER, LIMITED_USER)}

        self._address = address
        self.server = f"https://{address}:{self._port}"
        self._etcd_port = client_port
        self._etcd = _Server("etcd", self._etcd_command(programs, client_port, peer_port), self.directory)
        command = [*self._apiserver_command(programs, client_port, service_range), *apiserver_flags]
        self._apiserver = _Server("kube-apiserver", command, self.directory)

    def start(self) -> None:
        """Start both and return when Services can be created with either identity. Raises ControlPlaneError."""
        try:
            self._write_secrets()
            self._etcd.start()
            self._etcd.wait_until(self._etcd_ready, "etcd says that it is ready")
            self.start_apiserver()
            self._bind_limited_user()
            self._apiserver.wait_until(self._settled, "the first objects are there")
        except BaseException:
            self.stop()
            raise

    def start_apiserver(self) -> None:
        """Start the API server, on the same port as ever, and return when it is ready. Raises ControlPlaneError."""
        self._apiserver.start()
        self._apiserver.wait_until(self._listening, "the API server listens")
        self._write_kubeconfigs()
        with Api(self.kubeconfig) as api:
            self._apiserver.wait_until(api.ready, "the API server says that it is ready")

    def kill_apiserver(self) -> None:
        """End the API server with SIGKILL, as a crash would; etcd goes on. It is gone on return."""
        self._apiserver.kill()

    def restart_apiserver(self) -> None:
        """End the API server in an orderly way (SIGTERM) and start it again. Raises ControlPlaneError."""
        self._apiserver.terminate()
        self.start_apiserver()

    def stop(self) -> None:
        """End both processes and remove a temporary directory. May be called more than once."""
        self._apiserver.kill()
        self._etcd.kill()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # Command lines and files

    def _etcd_command(self, programs: Path, client_port: int, peer_port: int) -> list[str]:
        client, peer = f"http://{LOOPBACK}:{client_port}", f"http://{LOOPBACK}:{peer_port}"
        return [
            str(programs / "etcd"),
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",  # the data is thrown away anyhow
        ]

    def _apiserver_command(self, programs: Path, etcd_port: int, service_range: str) -> list[str]:
        return [
            str(programs / "kube-apiserver"),
            f"--etcd-servers=http://{LOOPBACK}:{etcd_port}",
            f"--bind-address={self._address}",
            f"--secure-port={self._port}",
            f"--advertise-address={ADVERTISED_ADDRESS}",
            f"--cert-dir={self.directory / 'certificates'}",  # it makes its serving certificate there and keeps it
            f"--service-cluster-ip-range={service_range}",
            f"--service-account-key-file={self._signing_key}",
            f"--service-account-signing-key-file={self._signing_key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--token-auth-file={self._token_file}",
            "--authorization-mode=RBAC",
            "--shutdown-watch-termination-grace-period=1s",  # without it SIGTERM waits 60 s for every open watch
            "--disable-admission-plugins=ServiceAccount",  # Pods need no ServiceAccount: nobody would create it
            "--allow-privileged",
        ]

    @property
    def _signing_key(self) -> Path:
        return self.directory / "service-account.key"

    @property
    def _token_file(self) -> Path:
        return self.directory / "tokens.csv"

    @property
    def _certificate(self) -> Path:
        return self.directory / "certificates" / "apiserver.crt"

    def _write_secrets(self) -> None:
        """Write what the API server reads at its start."""
        _write_private(self._signing_key, _new_private_key())
        lines = [
            f'{self._tokens[ADMIN_USER]},{ADMIN_USER},1,"system:masters"',
            f"{self._tokens[LIMITED_USER]},{LIMITED_USER},2",
        ]
        _write_private(self._token_file, "\n".join(lines) + "\n")

    def _write_kubeconfigs(self) -> None:
        """Write the three kubeconfigs; the certificate is its own authority, so it must exist by now."""
        authority = self._certificate.read_bytes()
        for path, token in (
            (self.kubeconfig, self._tokens[ADMIN_USER]),
            (self.limited_kubeconfig, self._tokens[LIMITED_USER]),
            (self.refused_kubeconfig, "nobody-has-this-token"),
        ):
            _write_private(path, _kubeconfig(self.server, authority, token))

    def _bind_limited_user(self) -> None:
        """Give the limited user its rules."""
        role = {"kind": "ClusterRole", "metadata": {"name": LIMITED_USER}, "rules": list(self._limited_rules)}
        binding = {
            "kind": "ClusterRoleBinding",
            "metadata": {"name": LIMITED_USER},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": LIMITED_USER},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": LIMITED_USER}],
        }
        with Api(self.kubeconfig) as api:
            api.create(role)
            api.create(binding)

    # Conditions to wait for

    def _etcd_ready(self) -> bool:
        connection = http.client.HTTPConnection(LOOPBACK, self._etcd_port, timeout=PROBE_SECONDS)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _listening(self) -> bool:
        """Say whether the port is open; the certificate is written before that."""
        try:
            with socket.create_connection((self._address, self._port), timeout=PROBE_SECONDS):
                return True
        except OSError:
            return False

    def _settled(self) -> bool:
        """Say whether the API server has made what Services need and knows the limited user's rules.

        It makes the namespace, the range of ClusterIPs and the Service default/kubernetes, the last one with an address
        of the range, in the background after it said to be ready.
        """
        try:
            with Api(self.kubeconfig) as admin, Api(self.limited_kubeconfig) as limited:
                admin.get("Service", "kubernetes")
                return all(_allowed(limited, rule) for rule in self._limited_rules)
        except (ApiError, ApiUnreachableError):
            return False


class _Server:
    """One program: its process, its guard and its log file DIRECTORY/NAME.log, which grows over restarts."""

    def __init__(self, name: str, command: Sequence[str], directory: Path) -> None:
        self._name = name
        self._command = command
        self._log = directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process. Raises ControlPlaneError if it runs already."""
        if self._process is not None:
            raise ControlPlaneError(f"{self._name} runs already.")
        with self._log.open("ab") as log:
            # A process group of its own: an interrupt from the terminal is for the test, which then ends this.
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )
        guard = ["sh", "-c", _GUARD, "guard", str(self._process.pid)]
        self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, process_group=0)

    def wait_until(self, condition: Callable[[], bool], meaning: str) -> None:
        """Return when the condition holds. Raises ControlPlaneError when the time is up or the process ends."""
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise self._failure(f"{START_SECONDS:.0f} s passed and it is not so that {meaning}")
            try:
                code = self._process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                continue
            raise self._failure(f"{self._name} ended with code {code} before {meaning}")

    def kill(self) -> None:
        """End the process at once, if there is one."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask the process to end and wait for it. Raises ControlPlaneError, after a kill, if that takes too long."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)
            raise self._failure(f"{self._name} did not end within {STOP_SECONDS:.0f} s of {how.name}") from None
        finally:
            self._dismiss_guard()

    def _dismiss_guard(self) -> None:
        """End the guard before the kernel can give the process id, now free, to another process."""
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.communicate(b"done\n", STOP_SECONDS)

    def _failure(self, sentence: str) -> ControlPlaneError:
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        tail = "\n".join(lines[-LOG_TAIL_LINES:])
        return ControlPlaneError(f"{sentence}. The end of {self._log}:\n{tail}")


def _allowed(api: Api, rule: Object) -> bool:
    """Say whether the client may do the first thing that an RBAC rule for resources names."""
    attributes = {"group": rule["apiGroups"][0], "resource": rule["resources"][0], "verb": rule["verbs"][0]}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = api.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


def _free_ports(count: int) -> list[int]:
    """Return different TCP ports of loopback that nobody uses. Raises ControlPlaneError.

    They are outside the range that the kernel takes ports for outgoing connections from: while a server is down, a
    client that dials its port on loopback could otherwise get that very port as its own, meet itself and keep it. They
    are below the NodePorts, 30000 and above, too.
    """
    low, high = (int(word) for word in Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    candidates = [port for port in (*range(10240, 30000), *range(61000, 65536)) if not low <= port <= high]
    random.SystemRandom().shuffle(candidates)
    found: list[int] = []
    for port in candidates:
        if len(found) == count:
            break
        if _bindable(port):
            found.append(port)
    if len(found) < count:
        raise ControlPlaneError(f"There are no {count} free ports outside {low} to {high} on {LOOPBACK}.")
    return found


def _bindable(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _new_private_key() -> str:
    """Return a new private key of the curve P-256 as PEM, for the API server's tokens of ServiceAccounts.

    RFC 5915: a sequence of the version 1, the private number and the curve; the public point may be left out.
    """
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    number = (secrets.randbelow(order - 1) + 1).to_bytes(32, "big")
    der = bytes.fromhex("3031020101 0420") + number + bytes.fromhex("a00a 06082a8648ce3d030107")
    return f"-----BEGIN EC PRIVATE KEY-----\n{base64.encodebytes(der).decode()}-----END EC PRIVATE KEY-----\n"


def _kubeconfig(server: str, authority: bytes, token: str) -> str:
    """Return a kubeconfig as JSON, which is YAML too; `authority` is a certificate as PEM."""
    cluster = {"server": server, "certificate-authority-data": base64.b64encode(authority).decode()}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    return json.dumps(config, indent=2) + "\n"


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read."""
    path.touch(mode=0o600)
    path.write_text(text)
