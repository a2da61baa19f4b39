"""What is visible of a running agent: counters, metrics, health endpoints, and the state for the command line.

- `spliceway.observe.observed`: what may be read of a pipeline
- `spliceway.observe.stats`: a snapshot of it, and rows for each service port (pure)
- `spliceway.observe.state`: the JSON that the state socket answers with (pure)
- `spliceway.observe.metrics`: the snapshot in Prometheus' exposition format (pure)
- `spliceway.observe.http`: a small HTTP/1.1 server that no client can stall
- `spliceway.observe.statesocket`: the unix socket file
- `spliceway.observe.admin`: routes, and the listeners they are served on
"""
