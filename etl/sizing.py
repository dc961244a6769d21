"""How much fits: workers, leaves at once and batches, under the limit of memory that the user gave."""

import logging

from etl import config, parallel
from etl.config import COORDINATOR_BYTES, MIB
from etl.workers import MOST_THREADS

_log = logging.getLogger(__name__)

# What a worker needs before it holds any data: the interpreter, polars, pyarrow, psycopg.
WORKER_BASE_BYTES = 110 * MIB
MIN_BATCH_BYTES = 2 * MIB
MAX_BATCH_BYTES = 16 * MIB
# From this round trip on a server is far away, and workers wait for it as long as they work: a leaf waits nine times. A
# busy machine of its own answers sooner.
FAR_S = 0.01
# How often a worker holds a batch: as read, as Python objects, as columns of the tables, as encoded for COPY.
_BATCH_COPIES = 12


def has_room(options: config.LoadOptions, workers: int) -> bool:
    """Whether so many processes stay under the memory limit while they hold no data."""
    return COORDINATOR_BYTES + workers * WORKER_BASE_BYTES <= options.memory_limit_bytes


def threads(options: config.LoadOptions, round_trip_s: float, free: int) -> int:
    """Return how many leaves a worker loads at once: several if the server is far away, since most of them wait.

    As many as there is memory for, and half of the connections that are ``free``; unless somebody said how many workers.
    """
    if not options.more_when_far or round_trip_s < FAR_S:
        return 1
    workers = parallel.parse(options.executor)[1]
    each = (options.memory_limit_bytes - COORDINATOR_BYTES) // workers - WORKER_BASE_BYTES
    found = max(1, min(MOST_THREADS, each // (_BATCH_COPIES * MIN_BATCH_BYTES), free // (2 * workers)))
    away = "the server is %.0f ms away: each worker loads %s leaves at once"
    _log.info(away, 1000 * round_trip_s, found, extra={"action": "far"})
    return found


def batch_bytes(options: config.LoadOptions, workers: int, threads: int = 1) -> int:
    """Return how many bytes of records each thread of a worker may take at once within the memory limit.

    A worker holds a batch several times over: as read, as Python objects, as columns of the tables, as encoded for COPY.
    """
    budget = (options.memory_limit_bytes - COORDINATOR_BYTES) // workers - WORKER_BASE_BYTES
    return max(MIN_BATCH_BYTES, min(MAX_BATCH_BYTES, budget // threads // _BATCH_COPIES))
