"""Memory that is free, back to the system."""

import ctypes

import pyarrow as pa


def give_back() -> None:
    """Let the allocators of pyarrow and, where it is glibc's, of NumPy give back what is free.

    They keep it for their own next need, each apart, so that one phase's would stay beside the next one's.
    """
    pa.default_memory_pool().release_unused()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
