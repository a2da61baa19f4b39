"""What holds for all tests."""

from __future__ import annotations

import signal

# A shell starts background jobs, and some runners start everything, with SIGINT ignored, and children inherit that:
# tests that interrupt a process would wait for ever. A handler here becomes the default in children.
signal.signal(signal.SIGINT, signal.default_int_handler)
