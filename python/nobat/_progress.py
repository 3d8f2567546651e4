"""The progress bar of ``map``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(wanted: bool, inputs: object) -> Iterator[Callable[[], object]]:
    """Gives what counts one more answer: on standard error, where that is wanted and
    tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        wanted = False
    if not wanted:
        yield lambda: None
        return
    with tqdm(total=len(inputs) if hasattr(inputs, "__len__") else None, unit=" inputs") as shown:
        yield shown.update
