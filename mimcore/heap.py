"""Blocks of memory that are free, where glibc is the C library: kept for the next step, or back to the system."""

import ctypes


def keep_freed_blocks() -> None:
    """Reuse large blocks instead of returning them: a training step asks for the same ones again.

    Spares the page faults of fresh blocks; docs/performance.md has what was seen.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_trim_threshold, m_mmap_threshold = -1, -3  # numbers of glibc's malloc.h
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, 1 << 30)


def give_back() -> None:
    """Return what is free now: the next phase needs blocks of other lengths."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
