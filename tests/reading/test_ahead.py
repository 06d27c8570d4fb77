"""Threads that read ahead: order, exceptions, and nothing left behind."""

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from brainscale.config.data_sections import PreprocessConfig
from brainscale.reading.ahead import Readers
from brainscale.reading.file_tables import file_table
from brainscale.reading.reader import read_tables
from brainscale.reading.request import ReadRequest
from brainscale.reading.sources import list_files
from tests.support.images import write_image


def numbers(job: int, count: int, seconds: float = 0.0) -> Iterator[tuple[int, int]]:
    for number in range(count):
        time.sleep(seconds)
        yield job, number


def test_results_come_in_the_order_of_the_jobs() -> None:
    jobs = [partial(numbers, job, job * 7 % 40, 0.0002 * (job % 3)) for job in range(50)]
    with Readers(4) as readers:
        assert [list(results) for results in readers.run(jobs)] == [
            list(numbers(job, job * 7 % 40)) for job in range(50)
        ]


def test_jobs_are_taken_a_few_at_a_time() -> None:
    begun = 0

    def jobs() -> Iterator[Callable[[], Iterator[tuple[int, int]]]]:
        nonlocal begun
        for job in range(100):
            begun += 1
            yield partial(numbers, job, 1)

    with Readers(2) as readers:
        for number, results in enumerate(readers.run(jobs())):
            assert list(results) == [(number, 0)]
            assert begun <= number + 6


def test_an_exception_is_raised_where_the_results_are_taken() -> None:
    def fails() -> Iterator[tuple[int, int]]:
        yield 0, 0
        raise ValueError("in a thread")

    with Readers(2) as readers:
        jobs: list[Callable[[], Iterator[tuple[int, int]]]] = [partial(numbers, 0, 2), fails, partial(numbers, 2, 2)]
        results = readers.run(jobs)
        assert list(next(results)) == [(0, 0), (0, 1)]
        second = next(results)
        assert next(second) == (0, 0)
        with pytest.raises(ValueError, match="in a thread"):
            next(second)
        assert list(next(results)) == [(2, 0), (2, 1)]


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_an_early_end_ends_the_threads(taken: int) -> None:
    before = threading.active_count()
    for _ in range(30):
        with Readers(3) as readers:
            results = readers.run(partial(numbers, job, 10_000) for job in range(20))
            first = next(results)
            for _ in range(taken):
                next(first)
    assert threading.active_count() == before


def test_an_early_end_ends_the_decoders(tmp_path: Path) -> None:
    for number in range(8):
        write_image(tmp_path / f"{number}.png", seed=number)
    request = ReadRequest(preprocess=PreprocessConfig(image_size=64))
    files = list_files([str(tmp_path)])
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with Readers(2) as readers:
        results = readers.run(partial(read_tables, file_table([file]), request=request) for file in files)
        assert len(next(next(results))) == 1
        assert {child.pid for child in psutil.Process().children(recursive=True)} - before
    deadline = time.monotonic() + 10
    while left := {child.pid for child in psutil.Process().children(recursive=True)} - before:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_a_thread_that_cannot_be_prepared_works_all_the_same() -> None:
    def fails() -> None:
        raise RuntimeError("no memory")

    with Readers(2, fails) as readers:
        assert [list(results) for results in readers.run([partial(numbers, 0, 2)])] == [[(0, 0), (0, 1)]]
