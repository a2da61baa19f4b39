"""What the kernel itself has in memory for sockets, descriptors, tracked connections and pipes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

#: of /proc/meminfo, besides slabs
OTHERS = ("KernelStack", "Percpu", "PageTables")
PAGE = 4096


class KernelMemory(NamedTuple):
    """Bytes by kind: all, and a part of it, the caches of objects (those of objects that are alike share a name)."""

    kinds: dict[str, int]
    caches: dict[str, int]

    @classmethod
    def read(cls) -> KernelMemory:
        """As it is now."""
        lines = (line.partition(":") for line in Path("/proc/meminfo").read_text().splitlines())
        sizes = {key: int(value.split()[0]) * 1024 for key, _, value in lines}
        caches, unused = _caches()
        sockets = Path("/proc/net/sockstat").read_text().partition("\nTCP:")[2].split()
        kinds = {key: sizes[key] for key in OTHERS}
        kinds |= {"Slab": sizes["Slab"] - unused, "sockets": int(sockets[sockets.index("mem") + 1]) * PAGE}
        return cls(kinds, caches)


def _caches() -> tuple[dict[str, int], int]:
    """Bytes of the objects in each cache, and of the room for more objects in all of them together.

    That room is what is left of earlier connections; counting it would hide the next ones.
    """
    used, unused = {}, 0
    for line in Path("/proc/slabinfo").read_text().splitlines()[2:]:
        name, active, total, _size, objects, pages = line.split()[:6]
        each = int(pages) * PAGE / int(objects)
        used[name] = round(int(active) * each)
        unused += round((int(total) - int(active)) * each)
    return used, unused


def forget_names() -> None:
    """Have the kernel forget names and inodes of files that nobody uses: whoever looks at /proc leaves many."""
    with suppress(OSError):  # a machine that does not allow it has more noise
        Path("/proc/sys/vm/drop_caches").write_text("2")
