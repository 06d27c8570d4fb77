"""Beginnings of DICOM objects → their series: what runs in the child process before files are read."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from brainscale.reading.archives import HEAD_NBYTES, Member, is_archive, read_members
from brainscale.reading.formats.recognition import is_dicom
from brainscale.reading.libraries import load
from brainscale.reading.pseudonyms import pseudonym
from brainscale.reading.request import ReadRequest
from brainscale.reading.zip_portions import read_portion

BEGINNING_NBYTES = 2**16
"""In which the header of most objects is; of one with a longer header, all is read."""


def find_series(
    stream: io.RawIOBase,
    request: ReadRequest,
    portion: tuple[int, int] | None = None,
    without: tuple[str, ...] = (),
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Say of each DICOM object in a file of which series it is, and where it lies there.

    Args:
        stream: the file's bytes.
        request: its key makes the hashes.
        portion: of a zip archive, as in `read_portion`; None for all of a file.
        without: suffixes of members of a portion that are not looked into.

    Yields:
        The `path` of the member, and columns of `plan.SERIES`; `scan` is None where the series was not found.
    """
    if portion is not None:
        yield from _describe_members(read_portion(stream, request.limits, portion, without), request)
        return
    nbytes = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    beginning = stream.read(BEGINNING_NBYTES) or b""
    if not is_archive(beginning):
        if not is_dicom(beginning[:HEAD_NBYTES]):
            return
        facts = _describe(beginning, request)
        if facts["scan"] or not len(beginning) < nbytes <= request.limits.nbytes:
            yield {"path": [], **facts}, b""
            return
    stream.seek(0)
    yield from _describe_members(read_members(stream, nbytes, request.limits), request)


def _describe_members(members: Iterable[Member], request: ReadRequest) -> Iterator[tuple[dict[str, Any], bytes]]:
    for member in members:
        if member.data and is_dicom(member.data[:HEAD_NBYTES]):
            facts = _describe(member.data[:BEGINNING_NBYTES], request)
            yield {"path": member.path, **(facts if facts["scan"] else _describe(member.data, request))}, b""


def _describe(data: bytes, request: ReadRequest) -> dict[str, Any]:
    dicom = load("brainscale.reading.formats.dicom")
    head = dicom.read_head(data, request.limits)
    if not all(number is None or 0 <= number < 2**31 for number in (head.frames, head.width, head.height)):
        head = dicom.Head()
    hashed = {name: pseudonym(value, request.key) for name, value in (("scan", head.scan), ("instance", head.instance))}
    return {**asdict(head), **hashed}
