"""Read with several threads, each with a decoder of its own, and pass on what they read in order."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

Item = TypeVar("Item")
Job = Callable[[], Iterator[Item]]
DEPTH = 16
"""Items of one job that wait for the reader of its results."""
WAIT_SECONDS = 0.2


class _Results(Generic[Item]):
    """What one job yields, until it is taken."""

    def __init__(self, job: Job[Item]) -> None:
        self.job = job
        self.items: queue.Queue[Item | BaseException | None] = queue.Queue(DEPTH)


class Readers:
    """Threads that run jobs one after another. They end with the `with` block, and their decoders with them.

    Args:
        threads: their number.
        prepare: called in each thread when it starts, before there is a job.
    """

    def __init__(self, threads: int, prepare: Callable[[], object] = lambda: None) -> None:
        self._todo: queue.SimpleQueue[_Results | None] = queue.SimpleQueue()  # type: ignore[type-arg]
        self._over = threading.Event()
        self._prepare = prepare
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> "Readers":
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for _thread in self._threads:
            self._todo.put(None)  # nobody waits with a timeout: get(timeout=…) of Python 3.11 may wait for ever
        for thread in self._threads:
            thread.join()

    def run(self, jobs: Iterable[Job[Item]]) -> Iterator[Iterator[Item]]:
        """Run jobs, twice as many ahead as there are threads, and yield the results of each, in their order.

        Each job's results have to be taken before the next one's.
        """
        waiting: deque[_Results[Item]] = deque()
        for job in jobs:
            waiting.append(_Results(job))
            self._todo.put(waiting[-1])
            if len(waiting) > 2 * len(self._threads):
                yield _take(waiting.popleft())
        while waiting:
            yield _take(waiting.popleft())

    def _work(self) -> None:
        with suppress(Exception):  # the first job meets the same error, and its results say so
            self._prepare()
        while (results := self._todo.get()) is not None and not self._over.is_set():
            self._run(results)

    def _run(self, results: "_Results[Item]") -> None:
        try:
            for item in results.job():
                if not self._put(results, item):
                    return
            self._put(results, None)
        except BaseException as error:  # noqa: BLE001 (raised again where the results are taken)
            self._put(results, error)

    def _put(self, results: "_Results[Item]", item: Item | BaseException | None) -> bool:
        """Add an item; False if nobody waits for it any more."""
        while not self._over.is_set():
            try:
                results.items.put(item, timeout=WAIT_SECONDS)
            except queue.Full:
                continue
            return True
        return False


def _take(results: "_Results[Item]") -> Iterator[Item]:
    while (item := results.items.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item
