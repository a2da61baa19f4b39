#!/usr/bin/env python3
"""Run the tests of the node agent in namespaces of their own (root).

Usage: python tests/nodes/run.py [PYTEST-ARGUMENT ...]

The control plane comes from `tests/cluster/build.py kube-apiserver etcd`.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cluster.run import main

if __name__ == "__main__":
    main("nodes", __file__)
