"""The log of a job on a cluster, read line by line while the job runs, whatever happens to the connection."""

import asyncio
import json
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ray.job_submission import JobSubmissionClient

from brainscale.cluster.job_main import RESULT

QUIET_S = 60.0  # time without a line after which the connection to a log is made again
SERVER_LINE = re.compile(
    r"Running entrypoint for job "
    r"|\d{4}-\S+ [\d:,]+\t(INFO|WARNING|ERROR) \S+\.py:\d+ -- "  # of Ray's Python
    r"|\[\d{4}-\S+ [\d:,]+ [DIWE] \d+ \d+\] (\(\S+\) )?\S+\.(cc|h):\d+: "  # of Ray's core
)
"""Beginnings of the lines that a Jobs server, or Ray in the job, adds to a job's log."""


class JobLog:
    """A job's log, passed on line by line. Every new connection starts again at its first character.

    Args:
        on_line: called with each line except the result and the lines of Ray.

    Attributes:
        result: result that the job printed; None before it.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line, self._length, self._unfinished_line = on_line, 0, ""
        self.result: dict[str, Any] | None = None

    async def read(self, client: JobSubmissionClient, job: str) -> None:
        """Read the log until it ends or the connection breaks."""
        position, pieces = 0, client.tail_job_logs(job)
        with suppress(StopAsyncIteration, asyncio.TimeoutError):  # a connection may die without an error
            while True:
                async with asyncio.timeout(QUIET_S):  # asyncio.wait_for could lose a Ctrl-C that comes with a piece
                    piece = await anext(pieces)
                self._add(piece[max(0, self._length - position) :])
                position += len(piece)

    def end(self, whole: str) -> None:
        """Pass on the rest of the log, and its last line even if it lacks a line break."""
        self._add(whole[self._length :])
        if self._unfinished_line:
            self._add("\n")

    def _add(self, text: str) -> None:
        self._length += len(text)
        *lines, self._unfinished_line = (self._unfinished_line + text).split("\n")
        for line in lines:
            if line.startswith(RESULT):
                self.result = json.loads(line.removeprefix(RESULT))
            elif not SERVER_LINE.match(line):
                self._on_line(line)
