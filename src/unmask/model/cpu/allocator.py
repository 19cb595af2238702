"""Memory of the CPU, kept from one step for the next.

glibc gives large blocks back to the system when they are freed, and every step then pays for getting them anew, zeroed
page by page: with a vocabulary of 30,522 that can be a third of a step. Kept blocks are used again as they are, unless
something that stays lies between them. Such are the kernels that oneDNN makes for every shape it meets and keeps, a
thousand and more of them: those of shapes that hardly come again would come and go everywhere in the heap, which then
grows with every step (measured in docs/log.md). A step needs some dozens, and what round sizes need
(:mod:`unmask.model.shapes`) are a few hundred.
"""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

# Of glibc's malloc.h. Blocks up to the largest int come from the heap, and the heap is never cut back.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER, _LARGEST = -1, 2**31 - 1

# Read when the first product is computed, which is no earlier than this is imported.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "400")
os.environ.setdefault("LRU_CACHE_CAPACITY", "16")


@cache
def disable_malloc_trim() -> bool:
    """Let this process keep the memory that it frees, for its next allocations.

    Returns:
        Whether that could be arranged: with glibc, so on most Linux systems.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
