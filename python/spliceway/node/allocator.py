"""The C allocator's treatment of large blocks."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3
#: bytes; glibc's own first value
LARGE_BLOCK = 128 << 10


def give_large_blocks_back() -> bool:
    """Let the allocator map large blocks one by one, so that they return to the system at once when they are freed.

    glibc does so by itself until the first of them is freed: then it takes blocks of that size for frequent and keeps
    them among the small ones. A list of 10,000 Services arrives in megabytes that are needed for a moment only, and the
    holes that they left made the agent a twentieth larger. False: the C library has no such setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK))
