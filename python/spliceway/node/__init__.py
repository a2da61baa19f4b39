"""The agent as a process: the pipeline with its source and capture, and what a node's service proxy does beside it."""
