"""Memory that is free, back to the system."""

import pyarrow as pa

from mimcore import heap


def give_back() -> None:
    """Let the allocators of pyarrow and, where it is glibc's, of NumPy give back what is free.

    They keep it for their own next need, each apart, so that one phase's would stay beside the next one's.
    """
    pa.default_memory_pool().release_unused()
    heap.give_back()
