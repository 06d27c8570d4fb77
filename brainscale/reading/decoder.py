"""Encoded bytes → planes, hashes and signatures: what runs in the child process that decodes untrusted files.

`decode` is a plain function; `python -m brainscale.reading.decoder` serves it to the reader.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from brainscale.errors import SampleError
from brainscale.reading.formats import dicom, mgh, nifti, raster
from brainscale.reading.formats.frame import Frame
from brainscale.reading.placeholders import find_placeholder
from brainscale.reading.preprocess import make_plane, min_decoded_side, to_grey
from brainscale.reading.pseudonyms import pseudonym
from brainscale.reading.request import ReadRequest
from brainscale.reading.sandbox import Handler, limit_memory, serve
from brainscale.reading.signature import hash_thumbnail, make_signature, perceptual_hash

HEAD_NBYTES = 512  # tell the format
HASH_SIDE = 256  # pixels: a JPEG is decoded no smaller for its hashes and signature


def decode(
    data: bytes, request: ReadRequest, frames: set[int | None] | None = None
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Decode the frames of one file.

    Args:
        data: the file's bytes, no longer compressed.
        request: what to make of each frame.
        frames: numbers of the frames to decode; None for all.

    Yields:
        Fields of a `Sample` and the bytes of its plane, empty without one. An error ends the frames and is the
        last item's `error_code` and `error`.
    """
    try:
        for frame in _frames(data, request):
            if frames is None or frame.number in frames:
                yield _answer(frame, request)
    except SampleError as error:
        yield {"error_code": error.code, "error": error.text}, b""
    except MemoryError:
        text = f"decoding needs more than limits.memory_mib = {request.limits.memory_mib}"
        yield {"error_code": "out_of_memory", "error": text}, b""


def _frames(data: bytes, request: ReadRequest) -> Iterator[Frame]:
    head, limits, spec = data[:HEAD_NBYTES], request.limits, request.preprocess
    if not data:
        raise SampleError("empty_file", "the file holds no bytes")
    if dicom.recognises(head):  # first, for its preamble may pass for a TIFF
        return dicom.decode(data, limits, spec.window)
    if raster.recognises(head):
        return raster.decode(data, limits, min_decoded_side(spec) if request.planes else HASH_SIDE)
    if nifti.recognises(head):
        return nifti.decode(data, limits, spec.window, spec.slices)
    if mgh.recognises(head):
        return mgh.decode(data, limits, spec.window, spec.slices)
    if nifti.is_header_only(head):
        text = "a NIfTI header without its image; put the .img file beside the .hdr file"
        raise SampleError("unsupported_format", text)
    formats = ", ".join([*raster.FORMATS, "DICOM", "NIfTI", "MGH"])
    raise SampleError("unsupported_format", f"the content is in no supported format ({formats})")


def _answer(frame: Frame, request: ReadRequest) -> tuple[dict[str, Any], bytes]:
    facts: dict[str, Any] = {
        name: getattr(frame, name) for name in ("format", "mode", "width", "height", "empty") if getattr(frame, name)
    }
    facts["frame"] = frame.number
    facts["acquisition"] = {name: value for name, value in asdict(frame.acquisition).items() if value is not None}
    facts |= _describe_patient(frame, request.key) | {"scan": pseudonym(frame.scan, request.key)}
    grey = to_grey(frame, request.preprocess.window)
    if request.hashes and not frame.empty:
        facts |= _recognisable(grey)
    return facts, make_plane(grey, request.preprocess).tobytes() if request.planes else b""


def _recognisable(grey: np.ndarray) -> dict[str, str | None]:
    """Return the hashes and the signature (hexadecimal) of an image."""
    signature = make_signature(grey)
    if signature is None:
        return {}
    return {
        "phash": perceptual_hash(grey),
        "head_phash": hash_thumbnail(signature),
        "signature": signature.tobytes().hex(),
    }


def _describe_patient(frame: Frame, key: bytes) -> dict[str, str | None]:
    """Return the hashes of the patient, with and without the issuer, or the placeholder in its place."""
    if not frame.patient:
        return {}
    if word := find_placeholder(frame.patient):
        return {"patient_placeholder": word}
    issuer = (frame.issuer or "").casefold()
    with_issuer = None if not issuer or find_placeholder(issuer) else f"{frame.patient}|{issuer}"
    return {"patient": pseudonym(frame.patient, key), "patient_with_issuer": pseudonym(with_issuer, key)}


def _make_handler(settings: Mapping[str, Any]) -> Handler:
    request = ReadRequest.from_json(settings)
    logging.disable()
    limit_memory(request.limits.memory_mib)

    def handle(facts: Mapping[str, Any], data: memoryview) -> Iterator[tuple[dict[str, Any], bytes]]:
        frames = facts["frames"]
        return decode(bytes(data), request, None if frames is None else set(frames))

    return handle


if __name__ == "__main__":
    serve(_make_handler)
