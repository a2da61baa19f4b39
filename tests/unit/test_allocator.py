"""Memory that is needed for a moment only goes back to the system."""

from __future__ import annotations

import subprocess
import sys

from spliceway.node.allocator import LARGE_BLOCK

#: Frees a block of 8 MB, upon which glibc keeps later large blocks among the small ones, and counts mapped blocks
#: before and while there is another large one.
_SCRIPT = f"""
import ctypes, sys
from spliceway.node.allocator import give_large_blocks_back

class Info(ctypes.Structure):
    _fields_ = [("before", ctypes.c_size_t * 3), ("hblks", ctypes.c_size_t), ("rest", ctypes.c_size_t * 6)]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Info
if sys.argv[1] == "set":
    assert give_large_blocks_back()
block = bytearray(8 << 20)
del block
before = library.mallinfo2().hblks
block = bytearray({LARGE_BLOCK} * 2)
print(library.mallinfo2().hblks - before)
"""


def mapped(word: str) -> int:
    """How many blocks a new process maps for a large block, with the setting or without."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT, word], capture_output=True, text=True, timeout=30, check=True)
    return int(done.stdout)


def test_large_blocks_are_mapped_one_by_one() -> None:
    """The agent of a large cluster would keep tens of megabytes that it needed once, while it read the first lists."""
    assert mapped("set") == 1
    assert mapped("leave") == 0, "the C library does it by itself: the setting is no longer needed"
