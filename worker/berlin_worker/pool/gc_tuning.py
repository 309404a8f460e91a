"""The garbage collector of a process that holds thousands of streams.

Python counts objects made minus objects freed, and now and then searches all of them for cycles.
With 1,000 streams in flight that took half of the CPU, and delayed every stream by up to a third
of a second (measured: Python 3.11, its default thresholds). A job that ends leaves no cycles
behind, so there is little to find.
"""

import contextlib
import gc
from collections.abc import Iterator
from typing import Final

_THRESHOLDS: Final = (20_000, 5, 20)
"""Young objects are searched every 20,000, which takes a millisecond; all objects every
2,000,000, some thousands of jobs."""


@contextlib.contextmanager
def relaxed_gc() -> Iterator[None]:
    """Collect seldom while the block runs; objects that existed before it are never collected."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
