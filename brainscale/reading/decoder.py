"""A file → its members, their hashes and planes: what runs in the child process that reads untrusted bytes.

`decode_file` and `decode` are plain functions; `python -m brainscale.reading.decoder` serves the first to the reader.
Identifiers leave this process as keyed hashes.
"""

import hashlib
import io
import logging
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from brainscale.errors import SampleError
from brainscale.reading.archives import Member, read_members
from brainscale.reading.formats import dicom, nifti, raster
from brainscale.reading.formats.frame import Frame
from brainscale.reading.placeholders import find_placeholder
from brainscale.reading.preprocess import make_plane, min_decoded_side, to_grey
from brainscale.reading.pseudonyms import pseudonym
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample_ids import join_id
from brainscale.reading.serving import Handler, limit_memory, serve
from brainscale.reading.sidecars import is_sidecar

HEAD_NBYTES = 512  # tell the format
HASH_SIDE = 256  # pixels: a JPEG is decoded no smaller for its perceptual hash
MIN_CONTRAST = 8  # grey levels: flatter images have no perceptual hash, since all would share one and be one group


Answer = tuple[dict[str, Any], bytes]
"""Facts, and the bytes of a plane or none."""


def decode_file(
    stream: io.RawIOBase,
    file_id: str,
    request: ReadRequest,
    wanted: Mapping[str, Collection[int | None]] | None = None,
    skip: int = 0,
) -> Iterator[Answer]:
    """Unpack, recognise, decode and preprocess a file.

    Args:
        stream: its bytes.
        file_id: its sample id.
        request: what to make of each frame.
        wanted: member, as `join_id("", path)` → numbers of its frames to decode; None for everything.
        skip: number of members to leave out at the beginning.

    Yields:
        For each member: its number, path, nbytes and sha256; then what `decode` yields.
    """
    nbytes = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    for number, member in enumerate(read_members(stream, nbytes, request.limits)):
        frames = None if wanted is None else wanted.get(join_id("", member.path), ())
        if number >= skip and (frames is None or frames):
            yield from _decode_member(member, number, file_id, request, frames)


def _decode_member(
    member: Member, number: int, file_id: str, request: ReadRequest, frames: Collection[int | None] | None
) -> Iterator[Answer]:
    data, error = member.data, member.error
    facts: dict[str, Any] = {"member": number, "path": member.path, "note": member.note, "nbytes": member.nbytes}
    if is_sidecar(join_id(file_id, member.path), data):
        error = SampleError("sidecar", "a file of the operating system")
    if data is not None:
        facts["nbytes"] = len(data)
        facts["sha256"] = None if error else hashlib.sha256(data).hexdigest()
    yield facts, b""
    if error:
        yield {"error_code": error.code, "error": error.text}, b""
    else:
        yield from decode(data or b"", request, frames)


def decode(data: bytes, request: ReadRequest, frames: Collection[int | None] | None = None) -> Iterator[Answer]:
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
        text = "".join(character if character.isprintable() else "?" for character in error.text)
        yield {"error_code": error.code, "error": text}, b""
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
    if nifti.is_header_only(head):
        text = "a NIfTI header whose image is in another file; convert the pair to one .nii file"
        raise SampleError("unsupported_format", text)
    formats = ", ".join([*raster.FORMATS, "DICOM", "NIfTI"])
    raise SampleError("unsupported_format", f"the content is in no supported format ({formats})")


def _answer(frame: Frame, request: ReadRequest) -> Answer:
    facts: dict[str, Any] = {
        name: getattr(frame, name) for name in ("format", "mode", "width", "height", "empty") if getattr(frame, name)
    }
    facts["frame"] = frame.number
    facts |= _describe_patient(frame, request.key) | {"scan": pseudonym(frame.scan, request.key)}
    grey = to_grey(frame, request.preprocess.window)
    if request.hashes and not frame.empty:
        facts["phash"] = perceptual_hash(grey)
    return facts, make_plane(grey, request.preprocess).tobytes() if request.planes else b""


def _describe_patient(frame: Frame, key: bytes) -> dict[str, str | None]:
    """Return the hashes of the patient, with and without the issuer, or the placeholder in its place."""
    if not frame.patient:
        return {}
    if word := find_placeholder(frame.patient):
        return {"patient_placeholder": word}
    issuer = (frame.issuer or "").casefold()
    with_issuer = None if not issuer or find_placeholder(issuer) else f"{frame.patient}|{issuer}"
    return {"patient": pseudonym(frame.patient, key), "patient_with_issuer": pseudonym(with_issuer, key)}


def perceptual_hash(grey: np.ndarray) -> str | None:
    """Return 64 bits in 16 digits: signs of the lowest frequencies of a 32 × 32 reduction; None without contrast."""
    import imagehash  # here: it needs scipy, and scoring asks for no hash

    return str(imagehash.phash(Image.fromarray(grey))) if np.ptp(grey) >= MIN_CONTRAST else None


def _make_handler(settings: Mapping[str, Any]) -> Handler:
    request = ReadRequest.from_json(settings)
    logging.disable()
    limit_memory(request.limits.memory_mib)

    def handle(facts: Mapping[str, Any], stream: io.RawIOBase) -> Iterator[Answer]:
        return decode_file(stream, facts["file"], request, facts["wanted"], facts["skip"])

    return handle


if __name__ == "__main__":
    serve(_make_handler)
