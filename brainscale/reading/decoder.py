"""A file → its members, their hashes, signatures and planes: what runs in the child that reads untrusted bytes.

`decode_members` and `decode` are plain functions; `python -m brainscale.reading.decoder` serves them to the reader, and
keeps slices until the window of their series is known. Identifiers leave this process as keyed hashes.
"""

import hashlib
import io
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any, get_args

import numpy as np

from brainscale.errors import SampleError
from brainscale.reading.acquisition import Acquisition
from brainscale.reading.archives import HEAD_NBYTES, Member
from brainscale.reading.beginnings import find_series
from brainscale.reading.formats.frame import NO_WINDOWS, Frame, Windows, count_frame
from brainscale.reading.formats.recognition import FORMATS, Family, find_family, is_nifti_header
from brainscale.reading.histogram import Histogram
from brainscale.reading.kept import KEPT_NBYTES, KeptSlices
from brainscale.reading.libraries import limit_memory, load
from brainscale.reading.pairs import join_members, read_with_partners
from brainscale.reading.placeholders import find_placeholder
from brainscale.reading.preprocess import make_plane, min_decoded_side, to_grey
from brainscale.reading.pseudonyms import pseudonym
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample_ids import join_id
from brainscale.reading.series import SliceFacts, bright_rank, is_background
from brainscale.reading.serving import Handler, serve
from brainscale.reading.sidecars import is_sidecar
from brainscale.reading.signature import hash_thumbnail, make_signature, perceptual_hash
from brainscale.reading.zip_portions import find_portions, read_portion

PACKAGE = "brainscale.reading.formats"  # each family of formats has a module in it
HASH_SIDE = 256  # pixels: a JPEG is decoded no smaller for its hashes and signature
ACQUISITION = tuple(column.name for column in fields(Acquisition))

Answer = tuple[dict[str, Any], bytes]
"""Facts, and the bytes of a plane, of a histogram, or none."""


def decode_members(
    members: Iterable[Member],
    facts: Mapping[str, Any],
    request: ReadRequest,
    kept: KeptSlices | None = None,
) -> Iterator[Answer]:
    """Recognise, decode and preprocess the members of a file.

    Args:
        members: as they are unpacked.
        facts: `file`, the file's sample id; `wanted`, member as `join_id("", path)` → numbers of its frames to decode,
            or None for everything; `windows`, member → number and window of each frame of which it is known; `skip`,
            number of members to leave out at the beginning.
        request: what to make of each frame.
        kept: takes slices whose window is not known.

    Yields:
        For each member: its number, path, note, nbytes and sha256; then what `decode` yields.
    """
    for number, member in enumerate(members):
        name = join_id("", member.path)
        frames = None if facts["wanted"] is None else set(facts["wanted"].get(name, ()))
        if number < facts["skip"] or (frames is not None and not frames):
            continue
        about, error = _describe_member(member, number, facts["file"])
        yield about, b""
        if error:
            yield {"error_code": error.code, "error": _printable(error.text)}, b""
        else:
            windows = {frame: (low, high) for frame, low, high in facts["windows"].get(name, ())}
            yield from decode(member.data or b"", request, frames, windows, kept)


def _describe_member(member: Member, number: int, file_id: str) -> tuple[dict[str, Any], SampleError | None]:
    """Return what the samples of a member have in common, and why it has none."""
    data, error = member.data, member.error
    facts: dict[str, Any] = {"member": number, "path": member.path, "note": member.note, "nbytes": member.nbytes}
    if is_sidecar(join_id(file_id, member.path), data):
        error = SampleError("sidecar", "a file of the operating system")
    if data is not None:
        facts["nbytes"] = len(data)
        facts["sha256"] = None if error else hashlib.sha256(data).hexdigest()
    return facts, error


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def decode(
    data: bytes,
    request: ReadRequest,
    frames: Collection[int | None] | None = None,
    windows: Windows = NO_WINDOWS,
    kept: KeptSlices | None = None,
) -> Iterator[Answer]:
    """Decode the frames of one file.

    Args:
        data: the file's bytes, no longer compressed.
        request: what to make of each frame.
        frames: numbers of the frames to decode; None for all.
        windows: number of a frame → its window, where its series or volume is known.
        kept: takes slices whose window is not known; without it, they are windowed alone.

    Yields:
        Fields of a `Sample` and the bytes of its plane or, for a slice with the field `slice`, of its histogram; empty
        without one. An error ends the frames and is the last item's `error_code` and `error`.
    """
    try:
        for frame in _frames(data, request, windows):
            if frames is None or frame.number in frames:
                yield _answer(frame, request, windows.get(frame.number), kept)
    except SampleError as error:
        yield {"error_code": error.code, "error": _printable(error.text)}, b""
    except ImportError as error:
        yield _not_loaded(error), b""
    except MemoryError:
        text = f"decoding needs more than limits.memory_mib = {request.limits.memory_mib}"
        yield {"error_code": "out_of_memory", "error": text}, b""


def load_libraries() -> Iterator[Answer]:
    """Load the libraries of all formats, and yield the error of the first that is not there."""
    try:
        for module in (*(f"{PACKAGE}.{family}" for family in get_args(Family)), "openjpeg.utils"):
            load(module)
    except ImportError as error:
        yield _not_loaded(error), b""


def _not_loaded(error: ImportError) -> dict[str, str]:
    text = f"the library of a format cannot be loaded ({_printable(str(error))}): install brainscale again"
    return {"error_code": "decoder_crashed", "error": text}


def show_kept(wanted: Sequence[tuple[str, float, float]], request: ReadRequest, kept: KeptSlices) -> Iterator[Answer]:
    """Make the planes of slices that were kept.

    Args:
        wanted: name and window of each slice.
        request: what to make of them.
        kept: where they are.

    Yields:
        Whether the slice is `missing`, and the bytes of its plane.
    """
    for name, low, high in wanted:
        frame = kept.take(name)
        if frame is None:
            yield {"missing": True}, b""
        else:
            grey = to_grey(replace(frame, grey_range=(low, high)), request.preprocess.window)
            yield {"missing": False}, make_plane(grey, request.preprocess).tobytes()


def _frames(data: bytes, request: ReadRequest, windows: Windows) -> Iterator[Frame]:
    head, limits, spec = data[:HEAD_NBYTES], request.limits, request.preprocess
    if not data:
        raise SampleError("empty_file", "the file holds no bytes")
    family = find_family(head)
    if family is None:
        raise _unknown_format(head)
    decode_frames: Callable[..., Iterator[Frame]] = load(f"{PACKAGE}.{family}").decode
    if family == "dicom":
        return decode_frames(data, limits, spec.window, by_volume=spec.window_source == "volume")
    if family == "raster":
        return decode_frames(data, limits, min_decoded_side(spec) if request.planes else HASH_SIDE)
    return decode_frames(data, limits, spec.window, spec.slices, windows)


def _unknown_format(head: bytes) -> SampleError:
    if is_nifti_header(head):
        text = "a NIfTI header without its image; put the .img file beside the .hdr file"
    else:
        text = f"the content is in no supported format ({', '.join(FORMATS)})"
    return SampleError("unsupported_format", text)


def _answer(frame: Frame, request: ReadRequest, window: tuple[float, float] | None, kept: KeptSlices | None) -> Answer:
    facts: dict[str, Any] = {
        name: getattr(frame, name) for name in ("format", "mode", "width", "height") if getattr(frame, name)
    }
    facts["frame"] = frame.number
    facts["acquisition"] = {
        name: value for name in ACQUISITION if (value := getattr(frame.acquisition, name)) is not None
    }
    facts |= _describe_patient(frame, request.key) | {"scan": pseudonym(frame.scan, request.key)}
    histogram = None
    if frame.in_series and window:
        frame = replace(frame, grey_range=window)
    elif frame.in_series:
        histogram = count_frame(frame)
        window = histogram.percentiles(request.preprocess.window)
        slice_facts = _describe_slice(frame, histogram, request.key)
        if kept or not request.planes:
            facts["slice"] = asdict(slice_facts)
        frame = replace(frame, grey_range=window, position=0, alone=True, empty=is_background(slice_facts, window))
        if kept and request.planes:
            facts["kept"] = kept.keep(frame)
            return facts, histogram.to_bytes()
    if frame.position is not None:
        facts |= {"window": frame.grey_range, "slice_index": frame.position, "alone": frame.alone, "empty": frame.empty}
    grey = to_grey(frame, request.preprocess.window)
    if request.hashes and not frame.empty:
        facts |= _recognisable(grey)
    if request.planes:
        return facts, make_plane(grey, request.preprocess).tobytes()
    return facts, histogram.to_bytes() if histogram else b""


def _describe_slice(frame: Frame, histogram: Histogram, key: bytes) -> SliceFacts:
    return SliceFacts(
        instance=pseudonym(frame.instance, key),
        geometry=frame.geometry,
        number=frame.sequence,
        inverted=frame.inverted,
        bright=histogram.brightest(bright_rank(frame.pixels.size), inverted=frame.inverted),
    )


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
    limit_memory(request.limits.memory_mib + KEPT_NBYTES // 2**20)
    kept = KeptSlices()

    def handle(facts: Mapping[str, Any], stream: io.RawIOBase, *partners: io.RawIOBase) -> Iterator[Answer]:
        if "libraries" in facts:
            return load_libraries()
        if "show" in facts:
            return show_kept(facts["show"], request, kept)
        if "portions" in facts:
            return find_portions(stream, facts["portions"], facts["directories"], request.limits)
        portion = facts["members"]
        if "series" in facts:
            return find_series(stream, request, portion, tuple(facts["without"]))
        made = replace(request, planes=facts["planes"], hashes=facts["hashes"])
        if portion is None:
            members = read_with_partners(stream, partners, facts["suffix"], request.limits)
        else:
            members = join_members(read_portion(stream, request.limits, portion))
        return decode_members(members, facts, made, kept)

    return handle


if __name__ == "__main__":
    serve(_make_handler)
