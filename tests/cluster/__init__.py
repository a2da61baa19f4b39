"""Tests against a real Kubernetes API server: the pinned programs, how to build them and how to run them."""
