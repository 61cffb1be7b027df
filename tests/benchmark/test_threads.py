"""One thread inside, everything as before outside."""

import os

import torch
from threadpoolctl import threadpool_info

from xaibench.benchmark.threads import POOLS, one_thread


def counts():
    return {pool["num_threads"] for pool in threadpool_info()}, torch.get_num_threads(), [os.environ.get(name) for name in POOLS]


def test_every_pool_is_limited_and_restored():
    torch.set_num_threads(2)
    try:
        before = counts()
        with one_thread():
            assert counts() == ({1}, 1, ["1"] * 3)
        assert counts() == before
    finally:
        torch.set_num_threads(1)
