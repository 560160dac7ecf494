"""How many threads matrix products may use.

Many small products in two threads spend their time waiting for each other as soon as another process wants the processor (a factor of
ten was measured on a busy machine), so that loops over these run in one thread each, side by side where there are several.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache

from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread() -> AbstractContextManager[object]:
    """Within the returned context every BLAS call of this process uses one thread."""
    limits: AbstractContextManager[object] = _controller().limit(limits=1, user_api="blas")
    return limits
