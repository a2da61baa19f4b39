#!/usr/bin/env python3
"""Run the conformance tests in namespaces of their own (root).

Usage: python tests/conformance/run.py [PYTEST-ARGUMENT ...]

The control plane and kube-proxy come from `tests/cluster/build.py kube-apiserver etcd kube-proxy`.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cluster.run import main

if __name__ == "__main__":
    main("conformance", __file__)
