"""One thread per worker: for speed where workers share the cores, and for equal bits, as more threads add in another order."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Read by libraries that are loaded while the limit holds, such as those of scipy."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread in the block, in torch and in the linear algebra of numpy, and as before after it."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    threads = torch.get_num_threads()
    before = {name: os.environ.get(name) for name in POOLS}
    os.environ.update(dict.fromkeys(POOLS, "1"))
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
