"""A gateway in forty lines: the engine inside a Trio program of your own.

    python examples/gateway.py 127.0.0.1:8080 127.0.0.11:9001 127.0.0.12:9001

balances connections to 127.0.0.1:8080 over the two backends, probes them, tells what happens to them, and drains on
Ctrl-C. `LoadBalancer(manifests=[...])` or `LoadBalancer(kubeconfig=...)` with `serve_service(...)` does the same for a
Service of a cluster.
"""

from __future__ import annotations

import signal
import sys

import trio

import spliceway


async def tell_events(service: spliceway.ServedPool) -> None:
    """Print what happens to the backends."""
    async for event in service.events():
        print(f"{event.kind} {event.backend} {event.reason}", flush=True)


async def main(address: str, backends: list[str]) -> None:
    """Serve until SIGINT or SIGTERM."""
    check = {"kind": "tcp", "interval": 1.0}
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with spliceway.LoadBalancer(health=check) as balancer:
            service = await balancer.serve(address, backends, balance="least-conn")
            print(f"serving {service.address}", flush=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tell_events, service)
                await anext(signals)
                nursery.cancel_scope.cancel()
            counters = service.statistics()
            await service.drain(5.0)
            print(f"{counters.flows} flows, {counters.saved} saved by a retry", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: gateway.py ADDR:PORT BACKEND:PORT ...")
    try:
        trio.run(main, sys.argv[1], sys.argv[2:])
    except spliceway.SplicewayError as error:
        sys.exit(f"Error: {error}")
