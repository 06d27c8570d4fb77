"""Encoded bytes → planes and perceptual hashes: what runs in the child process that reads untrusted files.

`decode` is a plain function; `python -m brainscale.reading.decoder` serves it to `reading`.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from brainscale.errors import SampleError
from brainscale.reading.formats import dicom, nifti, raster
from brainscale.reading.formats.frame import Frame
from brainscale.reading.preprocess import enough_side, plane, shown
from brainscale.reading.pseudonyms import pseudonym
from brainscale.reading.request import ReadRequest
from brainscale.reading.sandbox import Handler, bound_memory, serve

HEAD = 512  # bytes that tell the format
HASH_SIDE = 256  # pixels: a JPEG is decoded no smaller for its perceptual hash
FLAT = 8  # grey levels: an image with less contrast has no perceptual hash, or all would be one group


def decode(
    data: bytes, request: ReadRequest, frames: set[int | None] | None = None
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Facts and the plane of each frame in a file; the last facts hold an error where the file has one.

    Args:
        data: one file's bytes, no longer compressed.
        request: what is wanted.
        frames: their numbers, if not all are wanted.

    Yields:
        Columns of the manifest, and the plane's bytes (empty where none is wanted).
    """
    try:
        for frame in _frames(data, request):
            if frames is None or frame.number in frames:
                yield _answer(frame, request)
    except SampleError as error:
        yield {"error_code": error.code, "error": error.text}, b""
    except MemoryError:
        text = f"decoding needs more than {request.limits.memory_mib} MiB"
        yield {"error_code": "out_of_memory", "error": text}, b""


def _frames(data: bytes, request: ReadRequest) -> Iterator[Frame]:
    head, limits, spec = data[:HEAD], request.limits, request.preprocess
    if not data:
        raise SampleError("empty_file", "the file holds no bytes")
    if dicom.recognises(head):  # first, for its preamble may pass for a TIFF
        return dicom.decode(data, limits, spec.window)
    if raster.recognises(head):
        return raster.decode(data, limits, enough_side(spec) if request.planes else HASH_SIDE)
    if nifti.recognises(head):
        return nifti.decode(data, limits, spec.window, spec.slices)
    if nifti.is_header_alone(head):
        raise SampleError("unsupported_format", "a NIfTI header whose image is in another file: convert both to .nii")
    known = ", ".join([*raster.FORMATS, "DICOM", "NIfTI"])
    raise SampleError("unsupported_format", f"not one of {known}, by its content")


def _answer(frame: Frame, request: ReadRequest) -> tuple[dict[str, Any], bytes]:
    facts: dict[str, Any] = {
        name: getattr(frame, name) for name in ("format", "mode", "width", "height", "empty") if getattr(frame, name)
    }
    facts["frame"] = frame.number
    facts["patient"], facts["scan"] = pseudonym(frame.patient, request.key), pseudonym(frame.scan, request.key)
    grey = shown(frame, request.preprocess.window)
    if request.hashes and not frame.empty:
        facts["phash"] = perceptual_hash(grey)
    return facts, plane(grey, request.preprocess).tobytes() if request.planes else b""


def perceptual_hash(grey: np.ndarray) -> str | None:
    """64 bits in 16 digits: signs of the lowest frequencies of a 32 × 32 reduction; None without contrast."""
    import imagehash  # here: it needs scipy, and scoring asks for no hash

    return str(imagehash.phash(Image.fromarray(grey))) if np.ptp(grey) >= FLAT else None


def _handler(settings: Mapping[str, Any]) -> Handler:
    request = ReadRequest.from_json(settings)
    logging.disable()
    bound_memory(request.limits.memory_mib)

    def handle(facts: Mapping[str, Any], data: memoryview) -> Iterator[tuple[dict[str, Any], bytes]]:
        frames = facts["frames"]
        return decode(bytes(data), request, None if frames is None else set(frames))

    return handle


if __name__ == "__main__":
    serve(_handler)
