"""The way between an agent and the API server, which a test can cut and mend while the API server lives on."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

#: of the network namespace that the tests have for themselves; outside the range of ephemeral ports, so that nobody who
#: dials it while it is closed can meet itself
LINK = ("127.0.0.3", 9443)
_PIECE = 1 << 16


class ApiLink:
    """Relays TCP to the API server that `kubeconfig` names; `own_kubeconfig` goes through it."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        server = urlsplit(config["clusters"][0]["cluster"]["server"])
        self._target = (server.hostname or "", server.port or 443)
        # The certificate is for 127.0.0.1.
        config["clusters"][0]["cluster"] |= {
            "server": f"https://{LINK[0]}:{LINK[1]}",
            "tls-server-name": server.hostname,
        }
        self.own_kubeconfig = folder / "link.kubeconfig"
        self.own_kubeconfig.write_text(json.dumps(config))
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None

    def mend(self) -> None:
        """Accept connections."""
        self._listener = socket.create_server(LINK)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """End all connections in the middle of what they do, and refuse new ones."""
        listener, self._listener = self._listener, None
        if listener is not None:
            _shut(listener)
            listener.close()
        with self._lock:
            for connection in self._open:
                _shut(connection)

    def __enter__(self) -> Self:
        self.mend()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # of a listener that was closed
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(self._target, 10.0) as server:
            server.settimeout(None)
            pair = {client, server}
            with self._lock:
                self._open |= pair
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            try:
                back.start()
                _pump(client, server)
                back.join()
            finally:
                with self._lock:
                    self._open -= pair


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Copy until either side is at its end, then end both: TLS needs no half-closed connections."""
    with suppress(OSError):
        while data := source.recv(_PIECE):
            target.sendall(data)
    _shut(source)
    _shut(target)


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
