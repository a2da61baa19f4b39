"""A backend as a process: it answers each line with its name and the line, until its standard input ends.

Usage: python backend.py NAME HOST PORT SECONDS     (SECONDS: the time that each answer takes)

It prints a line when it listens. It only imports the standard library, so that it starts in a moment.
"""

from __future__ import annotations

import contextlib
import socketserver
import sys
import threading
import time


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024


def main(name: str, host: str, port: str, seconds: str) -> None:
    """Serve until standard input ends, which it also does when the test process is gone."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):  # a client that resets
                for line in self.rfile:
                    time.sleep(float(seconds))
                    self.wfile.write(name.encode() + b" " + line)

    with _Server((host, int(port)), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print("listening", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
