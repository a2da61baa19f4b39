"""A real HTTP backend of the demo: ``python -m spliceway.cli.demo.backend ADDR PORT NAME``.

It answers every GET with its name, says ``ready`` or what is wrong on stdout, and leaves when its stdin closes, so that
it never outlives the demo.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Backend(ThreadingHTTPServer):
    """Listens on one address; a client that resets its connection is nothing to report."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, address: tuple[str, int], name: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.pod = name
        super().__init__(address, Answer)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report everything but broken connections."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Answer(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "demo"
    #: head and body leave in one piece: a kill never leaves a client with half an answer
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer with the backend's name."""
        assert isinstance(self.server, Backend)
        body = f"{self.server.pod}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: thousands of requests come."""


def main() -> None:
    """Serve until stdin closes."""
    host, port, name = sys.argv[1:4]
    try:
        server = Backend((host, int(port)), name)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        sys.stdout.write(f"cannot listen on {host}:{port}: {reason}\n")
        return
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()
    os._exit(0)  # requests under way need no answer any more


if __name__ == "__main__":
    main()
