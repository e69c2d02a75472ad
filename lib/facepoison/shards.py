"""Long work in independent parts, computed here one after the other, or by other processes and machines at once.

A shard's key is the key of its result in the store, so that what is cached is never computed again, and whoever
computes a shard can tell whether that would give the result that was asked for.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import socket
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from dataclasses import dataclass

import torch
from safetensors.torch import load, save

from facepoison import store
from facepoison.device import device_kind, versions
from facepoison.errors import InputError
from facepoison.store import Arrays, Cached

ANSWERS_WITHIN = 10  # seconds that a scheduler may take to answer
_PATIENCE = 30  # seconds without any shard done after which it is looked whether anybody is at work


@dataclass(frozen=True)
class Shard:
    """A part of a long computation that depends on no other part.

    Attributes:
        name: What the result is, as in ``store.cached``.
        function: What computes it: takes ``parts`` by name; a function of a module, so that other processes find it.
        parts: Everything that the result depends on.
        by: The functions that do the work, by default ``function`` itself; see ``store.key``.
    """

    name: str
    function: Callable[..., Arrays]
    parts: Mapping[str, object]
    by: tuple[Callable[..., object], ...] = ()

    @property
    def key(self) -> str:
        """Its result's key in the store."""
        return store.key(self.name, self.by or (self.function,), self.parts)

    def cached(self) -> Cached:
        """Its result, from the store where it holds one, else computed here and cached."""
        return store.cached(
            self.name, lambda: self.function(**self.parts), by=self.by or (self.function,), **self.parts
        )


@dataclass(frozen=True)
class Pool:
    """Who computes shards.

    Attributes:
        executor: Takes them.
        workers: How many it has now; so many again wait there, that nobody is idle and few are in memory.
        lost: What it raises where a worker died over a shard once too often, or the scheduler did.
    """

    executor: Executor
    workers: Callable[[], int]
    lost: tuple[type[BaseException], ...] = (BrokenExecutor,)


@contextlib.contextmanager
def processes(workers: int) -> Iterator[Pool]:
    """A pool of processes on this machine."""
    executor = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield Pool(executor, lambda: workers)
    finally:
        executor.shutdown(cancel_futures=True)


@contextlib.contextmanager
def cluster(address: str) -> Iterator[Pool]:
    """A pool of the workers of a Dask scheduler, those that join later included.

    Raises:
        InputError: Dask is not installed, nobody answers at the address, or a worker has several threads.
    """
    try:
        import distributed
    except ImportError as error:
        raise InputError(f"scheduler {address}: Dask is not here: pip install 'poisoned-once[cluster]'") from error
    try:
        client = distributed.Client(address, timeout=ANSWERS_WITHIN, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(f"scheduler {address}: does not answer; start one there with 'dask scheduler'") from error
    with client:
        if any(threads > 1 for threads in client.nthreads().values()):
            raise InputError(f"scheduler {address}: a worker has several threads: start them with --nthreads 1")
        warnings.filterwarnings("ignore", message="Sending large graph")  # a shard brings its networks along
        executor = client.get_executor(pure=False)
        try:
            yield Pool(executor, lambda: len(client.nthreads()), (distributed.KilledWorker, CancelledError))
        finally:
            executor.shutdown(wait=False)


def made_with() -> dict[str, str]:
    """What has to be alike, beside the code, where the same shard is to give the same result."""
    return versions() | {"device": device_kind()}


def _packed(shard: Shard) -> bytes:
    """A shard for another process.

    Raises:
        InputError: a part of it stays with this process.
    """
    try:
        return pickle.dumps(shard)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise InputError(f"{shard.name}: cannot be sent to a worker ({error}): use --workers 1") from error


def run_shard(packed: bytes, key: str, wanted: Mapping[str, str], threads: int) -> tuple[bytes, float, bool]:
    """What a worker does with a shard: look into its own store, else compute and cache.

    Args:
        packed: The shard.
        key: Its key where it was sent.
        wanted: ``made_with`` there.
        threads: How many threads of torch there are there; with another number, sums may be rounded otherwise.

    Returns:
        The arrays as safetensors has them, the seconds that they took, and whether that was just now.

    Raises:
        InputError: this worker would compute something else.
    """
    where, own = f"worker on {socket.gethostname()}", made_with()
    other = [f"{name} {own.get(name)}, not {version}" for name, version in wanted.items() if own.get(name) != version]
    if other:
        raise InputError(f"{where}: has {'; '.join(other)}: install what the study runs with, then start it again")
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # each thread has its own, and a worker may import in one and compute in another
    unlike = f"{where}: its code differs from the study's: bring its checkout to the same commit, then start it again"
    try:
        shard = pickle.loads(packed)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{unlike} ({error})") from error
    if shard.key != key:
        raise InputError(unlike)
    result = shard.cached()
    return save(result.arrays), result.seconds, result.computed_now


def compute(
    shards: Sequence[Shard], pool: Pool | None = None, progress: Callable[[int], None] | None = None
) -> list[Cached]:
    """The results of shards: those that are cached, and the others computed and cached.

    Args:
        shards: Which.
        pool: Who computes; by default this process, one after the other. Shards with the same key are computed once.
        progress: Told the place of each shard that is done; with a pool in the order in which they are.

    Returns:
        The results in the order of the shards.

    Raises:
        InputError: a shard's own, or one cannot be sent to a worker, or workers have other code or libraries or die
            over a shard, or the store cannot be written.
    """
    tell = progress or (lambda place: None)
    if pool is None:
        found = []
        for place, shard in enumerate(shards):
            found.append(shard.cached())
            tell(place)
        return found
    places: dict[str, list[int]] = {}
    for place, shard in enumerate(shards):
        places.setdefault(shard.key, []).append(place)
    results: dict[str, Cached] = {}

    def done(key: str, result: Cached) -> None:
        results[key] = result
        for place in places[key]:
            tell(place)

    waiting: deque[str] = deque()
    for key, (first, *_) in places.items():
        here = store.find_cached(shards[first].name, key)
        if here:
            done(key, here)
        else:
            waiting.append(key)
    for key, result in _computed({key: shards[places[key][0]] for key in waiting}, pool):
        done(key, result)
    return [results[key] for _, key in sorted((place, key) for key, own in places.items() for place in own)]


def _computed(shards: Mapping[str, Shard], pool: Pool) -> Iterator[tuple[str, Cached]]:
    """Shards by key as a pool gets them done, each cached here before it is given."""
    waiting, running, wanted = deque(shards), dict[Future[tuple[bytes, float, bool]], str](), made_with()
    try:
        while waiting or running:
            while waiting and len(running) < 2 * max(1, pool.workers()):
                key = waiting.popleft()
                packed = _packed(shards[key])
                running[pool.executor.submit(run_shard, packed, key, wanted, torch.get_num_threads())] = key
            ready = wait(running, _PATIENCE, FIRST_COMPLETED).done
            if not ready and not pool.workers():
                warnings.warn("there is no worker: the study waits until one is started", stacklevel=2)
            failed: Exception | None = None
            while ready:  # a future let go of at once is not computed again by Dask should the worker that has it die
                future = ready.pop()
                key = running.pop(future)
                outcome = _outcome(future, pool, shards[key].name)
                del future
                if isinstance(outcome, Cached):
                    store.add_cached(shards[key].name, key, outcome)  # of use where the worker's store is another
                    yield key, outcome
                else:
                    failed = outcome
            if failed:
                raise failed
    finally:
        for future in running:
            future.cancel()


def _outcome(future: Future[tuple[bytes, float, bool]], pool: Pool, name: str) -> Cached | Exception:
    """What became of a shard."""
    try:
        packed, seconds, now = future.result()
    except pool.lost as error:
        what = f"{name}: whoever computed a shard is gone, killed or out of memory"
        failed = InputError(f"{what}: run again; what is done is cached")
        failed.__cause__ = error
        return failed
    except Exception as error:
        return error
    return Cached(load(packed), seconds, now)
