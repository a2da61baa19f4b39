"""Health: evidence from probes and from traffic goes in by one door, verdicts on backends come out.

- `spliceway.health.verdict`: the rise/fall state machine (pure)
- `spliceway.health.passive`: engine events as evidence (pure)
- `spliceway.health.prober`: one TCP or HTTP probe
- `spliceway.health.monitor`: schedules the probes and feeds the state machine

A verdict only moves a backend behind the healthy ones of its pool. When every backend of a pool is unhealthy the engine
uses all of them as if none was (fail open): wrong evidence must never turn a working Service off.
"""
