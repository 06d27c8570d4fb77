"""Every photometric interpretation, bit depth, sign, padding and window of DICOM, against numpy, pydicom and GDCM."""

from io import BytesIO
from itertools import product
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from brainscale.reading.preprocess import to_grey
from tests.support.dicom import dataset, frame, frames, item, lut, written
from tests.support.head import by_percentiles, difference, head, outside, scaled

PERCENTILES = (1.0, 99.0)
DEPTHS = [(1, False), *product((8, 10, 12, 16, 32), (False, True))]
PADDINGS = ["none", "value", "range", "unsigned value"]
WINDOWS = ["none", "linear", "linear exact", "sigmoid", "width 1", "table", "several", "per frame", "rescaled"]


def stored_head(bits: int, signed: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Values over most of a depth's range, the lowest two outside the head; and where the head is."""
    lowest = -(2 ** (bits - 1)) if signed else 0
    values = np.rint(head(seed=seed) * (2**bits - 1) * 0.9).astype(np.int64) + lowest
    if bits > 1:
        values = np.where(outside(), lowest + np.indices(values.shape)[1] % 2, np.maximum(values, lowest + 2))
    return values, ~outside()


def add_padding(ds: Dataset, padding: str, bits: int, signed: bool) -> None:
    lowest = -(2 ** (bits - 1)) if signed else 0
    if padding in ("value", "range"):
        ds.add_new("PixelPaddingValue", "SS" if signed else "US", lowest)
    if padding == "range":
        ds.add_new("PixelPaddingRangeLimit", "SS" if signed else "US", lowest + 1)
    if padding == "unsigned value":  # as some scanners write it, whatever the sign of the pixels
        ds.add_new("PixelPaddingValue", "US", lowest % 2**ds.BitsAllocated)


def is_padding(values: np.ndarray, padding: str, bits: int, signed: bool) -> np.ndarray:
    above = values - (-(2 ** (bits - 1)) if signed else 0)
    return above <= {"none": -1, "value": 0, "unsigned value": 0, "range": 1}[padding]


def add_window(ds: Dataset, window: str, centre: float, width: float) -> None:
    values = {"WindowCenter": f"{centre:.8g}", "WindowWidth": f"{width:.8g}"}
    match window:
        case "none":
            return
        case "linear exact" | "sigmoid":
            values["VOILUTFunction"] = window.replace(" ", "_").upper()
        case "width 1":
            values["WindowWidth"] = 1
        case "several":
            values = {"WindowCenter": [values["WindowCenter"], "7"], "WindowWidth": [values["WindowWidth"], "9"]}
        case "rescaled":
            ds.RescaleSlope, ds.RescaleIntercept = "0.5", "-3"
        case "table":
            ds.VOILUTSequence = [lut(0, TABLE.tolist(), 8)]
            return
        case "per frame":
            groups = item(FrameVOILUTSequence=[item(**values)])
            ds.PerFrameFunctionalGroupsSequence = [groups]
            ds.WindowCenter, ds.WindowWidth = 1, 2
            return
    for keyword, value in values.items():
        setattr(ds, keyword, value)


TABLE = np.minimum(255, np.arange(300) // 2)


def expected_grey(
    values: np.ndarray, window: str, centre: float, width: float, shown: np.ndarray, stays: bool, top: int
) -> np.ndarray:
    """The grey levels by the formulas of PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    x = values.astype(np.float64)
    centre, width = float(f"{centre:.8g}"), float(f"{width:.8g}")
    match window:
        case "none":
            return scaled(x, 0, top) if stays else by_percentiles(x, shown, PERCENTILES)
        case "linear exact":
            return scaled(x, centre - width / 2, centre + width / 2)
        case "sigmoid":
            return np.rint(255 / (1 + np.exp(-4 * (x - centre) / width))).astype(np.uint8)
        case "width 1":
            return np.where(x > centre - 0.5, 255, 0).astype(np.uint8)
        case "table":
            return TABLE[np.clip(values, 0, 299)].astype(np.uint8)
        case "rescaled":
            x = x * 0.5 - 3
    return scaled(x, centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)


GREY_KINDS = [
    (*depth, padding)
    for depth, padding in product(DEPTHS, PADDINGS)
    if depth[0] < 32 or padding == "none"  # the elements of padding have 16 bits
]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("bits", "signed", "padding"), GREY_KINDS)
def test_a_grey_object_gives_the_grey_levels_of_the_standard(
    bits: int, signed: bool, photometric: str, padding: str, window: str
) -> None:
    values, inside = stored_head(bits, signed)
    allocated = next(size for size in (1, 8, 16, 32) if bits <= size)
    mask = (1 << bits) - 1
    raw = (values & mask).astype(f"u{max(1, allocated // 8)}")  # the bits above those stored are 0, the sign's too
    ds = dataset(raw, PhotometricInterpretation=photometric, PixelRepresentation=int(signed))
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = allocated, bits, bits - 1
    if bits == 1:
        ds.PixelData = np.packbits(raw.ravel(), bitorder="little").tobytes()
    low, high = float(values[inside].min()), float(values[inside].max())
    centre, width = (low + high) / 2, max(2.0, (high - low) * 0.6)
    add_padding(ds, padding, bits, signed)
    add_window(ds, window, centre, width)
    padded = is_padding(values, padding, bits, signed)
    stays = bits <= 8 and not signed
    expected = expected_grey(values, window, centre, width, ~padded, stays, 2**bits - 1)
    expected = 255 - expected if photometric == "MONOCHROME1" else expected
    expected = np.where(padded, 0, expected)
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        ds.file_meta.TransferSyntaxUID = syntax
        assert difference(to_grey(frame(ds), PERCENTILES), expected) <= 1


@pytest.mark.parametrize("padding", ["none", "value", "range"])
def test_frames_share_the_percentiles_of_what_is_no_padding(padding: str) -> None:
    pairs = [stored_head(12, True, seed) for seed in range(3)]
    values = np.stack([stored for stored, _ in pairs]) // np.array([1, 2, 3])[:, None, None]
    values = np.where(np.stack([~inside for _, inside in pairs]), -2048, values)
    ds = dataset(values.astype(np.int16), frames=3, BitsStored=12, HighBit=11, RescaleSlope=2, RescaleIntercept=5)
    add_padding(ds, padding, 12, True)
    padded = is_padding(values, padding, 12, True)
    low, high = np.percentile((values * 2.0 + 5)[~padded], PERCENTILES)
    for decoded, stored, hidden in zip(frames(ds), values, padded, strict=True):
        expected = np.where(hidden, 0, scaled(stored * 2.0 + 5, low, high))
        assert difference(to_grey(decoded, PERCENTILES), expected) <= 1


@pytest.mark.parametrize(("keyword", "dtype"), [("Float", "f4"), ("DoubleFloat", "f8")])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("ranged", [False, True])
def test_padding_of_floating_point_pixels(keyword: str, dtype: str, photometric: str, ranged: bool) -> None:
    values = (head() * 3 + 1).astype(dtype)
    values[outside()] = -1000.5
    values[0, 0] = np.nan
    if ranged:
        values[5, 5] = -999
    ds = dataset(values, PhotometricInterpretation=photometric)
    del ds.PixelData, ds.BitsStored, ds.HighBit, ds.PixelRepresentation
    setattr(ds, f"{keyword}PixelData", values.tobytes())
    setattr(ds, f"{keyword}PixelPaddingValue", -1000.5)
    if ranged:
        setattr(ds, f"{keyword}PixelPaddingRangeLimit", -999)
    shown = (values > -998) if ranged else (values != -1000.5) & np.isfinite(values)
    expected = by_percentiles(values, shown, PERCENTILES)
    expected = np.where(shown, 255 - expected if photometric == "MONOCHROME1" else expected, 0)
    assert difference(to_grey(frame(ds), PERCENTILES), expected) <= 1


def test_an_object_that_is_all_padding_is_black() -> None:
    values = np.full((8, 8), 77, np.int16)
    assert to_grey(frame(dataset(values, PixelPaddingValue=77)), PERCENTILES).max() == 0


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "PALETTE COLOR"])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("planar", [0, 1])
def test_a_colour_object_gives_its_luminance(photometric: str, bits: int, planar: int) -> None:
    dtype, allocated = ("u1", 8) if bits == 8 else ("u2", 16)
    rng = np.random.default_rng(1)
    colours = rng.integers(0, 2**bits, (16, 24, 3)).astype(dtype)
    luma = colours @ [0.299, 0.587, 0.114] if photometric != "YBR_FULL" else colours[..., 0].astype(float)
    expected, stored = scaled(luma, 0, 2**bits - 1), colours
    if photometric == "PALETTE COLOR":
        stored = np.arange(16 * 24).reshape(16, 24) % 200
        stored = stored.astype("u1" if planar else "u2")
        table = rng.integers(0, 2**allocated, (3, 200)).astype(dtype)
        expected = scaled(table.T[stored] @ [0.299, 0.587, 0.114], 0, 2**allocated - 1)
    ds = dataset(stored, PhotometricInterpretation=photometric)
    if photometric == "PALETTE COLOR":
        for name, entries in zip(("Red", "Green", "Blue"), table, strict=True):
            ds.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [200, 0, allocated])
            ds.add_new(f"{name}PaletteColorLookupTableData", "OW", entries.tobytes())
    else:
        ds.BitsStored, ds.HighBit, ds.PlanarConfiguration = bits, bits - 1, planar
        ds.PixelData = (stored.transpose(2, 0, 1) if planar else stored).tobytes()
    assert difference(to_grey(frame(ds), PERCENTILES), expected) <= 1


@pytest.mark.parametrize("window", ["linear", "linear exact", "sigmoid", "several", "rescaled"])
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (10, True), (12, False), (16, True)])
def test_pydicom_applies_the_same_window(bits: int, signed: bool, window: str) -> None:
    values, inside = stored_head(bits, signed)
    raw = values.astype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")
    ds = dataset(raw, BitsStored=bits, HighBit=bits - 1)
    add_window(ds, window, float(np.mean(values[inside])), 2.0 ** (bits - 1))
    read = pydicom.dcmread(BytesIO(written(ds)))
    shown = apply_voi_lut(apply_modality_lut(read.pixel_array, read), read).astype(np.float64)
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    if window == "rescaled":
        low, high = low * 0.5 - 3, high * 0.5 - 3
    assert difference(to_grey(frame(ds), PERCENTILES), scaled(shown, low, high)) <= 1


@pytest.mark.parametrize(("bits", "signed"), [pair for pair in DEPTHS if pair[0] > 1])
def test_gdcm_reads_the_same_stored_values(bits: int, signed: bool, tmp_path: Path) -> None:
    values, _ = stored_head(bits, signed)
    size = next(size for size in (1, 2, 4) if bits <= 8 * size)
    raw = values.astype(f"{'i' if signed else 'u'}{size}")
    path = tmp_path / "x.dcm"
    path.write_bytes(written(dataset(raw, BitsStored=bits, HighBit=bits - 1)))
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    theirs = reader.GetImage().GetBuffer().encode("utf-8", "surrogateescape")
    assert np.array_equal(np.frombuffer(theirs, raw.dtype).reshape(raw.shape), frame(path.read_bytes()).pixels)


@pytest.mark.parametrize("absent", ["SamplesPerPixel", "PhotometricInterpretation", "PixelRepresentation"])
def test_gdcm_takes_the_same_defaults(absent: str, tmp_path: Path) -> None:
    ds = dataset(np.rint(head() * 1000).astype(np.uint16), BitsStored=12, HighBit=11)
    delattr(ds, absent)
    path = tmp_path / "x.dcm"
    path.write_bytes(written(ds))
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    image = reader.GetImage()
    decoded = frame(path.read_bytes())
    assert image.GetPhotometricInterpretation().GetString().strip() == decoded.mode.split()[0] == "MONOCHROME2"
    theirs = np.frombuffer(image.GetBuffer().encode("utf-8", "surrogateescape"), np.uint16)
    assert np.array_equal(theirs.reshape(decoded.pixels.shape), decoded.pixels)
