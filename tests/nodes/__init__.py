"""The agent as the service proxy of several nodes: what clients see, as Kubernetes' own end-to-end tests ask it."""
