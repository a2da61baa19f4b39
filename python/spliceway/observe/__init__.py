"""What is visible of a running agent: counters, metrics, health endpoints, and the state for the command line.

- `spliceway.observe.observed`: what may be read of a pipeline
- `spliceway.observe.syncs`: when changes arrived and when they were in force
- `spliceway.observe.stats`: a snapshot of all that, and rows for each service port (pure)
- `spliceway.observe.readings`: what runs beside the pipeline, for a scrape (pure)
- `spliceway.observe.state`: the JSON that the state socket answers with (pure)
- `spliceway.observe.metrics`, `spliceway.observe.kubemetrics`: the exposition format; own and kube-proxy's names
- `spliceway.observe.proxyhealth`: ``/healthz`` and ``/livez``
- `spliceway.observe.http`, `spliceway.observe.listening`: a small HTTP/1.1 server that no client can stall, its sockets
- `spliceway.observe.healthnodeport`: one server for each ``healthCheckNodePort``
- `spliceway.observe.statesocket`: the unix socket file
- `spliceway.observe.admin`: routes, and the listeners they are served on
"""
