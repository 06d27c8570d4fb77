"""NIfTI volumes: orientation, scaling, windows and limits, against volumes whose voxels say where they are."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from brainscale.config.data_sections import LimitsConfig
from brainscale.errors import SampleError
from brainscale.reading.formats import nifti
from brainscale.reading.formats.frame import Frame
from brainscale.reading.formats.recognition import is_nifti
from brainscale.reading.preprocess import to_grey

WINDOW = (0.5, 99.5)
X, Y, Z = np.meshgrid(np.arange(4), np.arange(5), np.arange(6), indexing="ij")
RAS = (X + 10 * Y + 100 * Z).astype(np.int16)  # voxel [x, y, z] of a volume that lies right, anterior, superior


def encoded(volume: np.ndarray, affine: np.ndarray | None = None, kind: type = nib.Nifti1Image) -> bytes:
    return bytes(kind(volume, np.eye(4) if affine is None else affine).to_bytes())


def frames(data: bytes, slices: str = "axial", **limits: int) -> list[Frame]:
    return list(nifti.decode(data, LimitsConfig(**limits), WINDOW, slices))


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_axial_slices_lie_as_a_radiologist_sees_them(kind: type) -> None:
    data = encoded(RAS, kind=kind)
    assert is_nifti(data[:512])
    decoded = frames(data)
    assert [f.number for f in decoded] == list(range(6))
    assert (decoded[0].width, decoded[0].height, decoded[0].format, decoded[0].mode) == (4, 5, "NIfTI", "int16")
    top_left = decoded[2].pixels[0, 0]  # right, anterior
    assert top_left == RAS[3, 4, 2]
    assert decoded[2].pixels[-1, -1] == RAS[0, 0, 2]


def test_coronal_and_sagittal_slices_lie_as_a_radiologist_sees_them() -> None:
    coronal = frames(encoded(RAS), "coronal")
    assert len(coronal) == 5
    assert coronal[1].pixels.shape == (6, 4)
    assert coronal[1].pixels[0, 0] == RAS[3, 1, 5]  # right, superior
    sagittal = frames(encoded(RAS), "sagittal")
    assert len(sagittal) == 4
    assert sagittal[1].pixels[0, 0] == RAS[1, 4, 5]  # anterior, superior


@pytest.mark.parametrize("axes", ["LPS", "SAR", "PIR", "ASL"])
def test_any_orientation_gives_the_same_slices(axes: str) -> None:
    image = nib.Nifti1Image(RAS, np.diag([1.0, 2.0, 3.0, 1.0]))
    orientation = nib.orientations.axcodes2ornt(tuple(axes))
    turned = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), orientation))
    assert "".join(nib.aff2axcodes(turned.affine)) == axes
    for slices in ("axial", "coronal", "sagittal"):
        pairs = zip(frames(bytes(turned.to_bytes()), slices), frames(encoded(RAS), slices), strict=True)
        assert all(np.array_equal(one.pixels, other.pixels) for one, other in pairs)


def test_scaling_is_applied_and_all_slices_share_one_grey_range() -> None:
    image = nib.Nifti1Image(RAS, np.eye(4))
    image.header.set_slope_inter(2.0, -7.0)
    plain, scaled = frames(encoded(RAS)), frames(bytes(image.to_bytes()))
    assert scaled[0].pixels[0, 0] == 2 * plain[0].pixels[0, 0] - 7
    assert {f.grey_range for f in plain} == {tuple(np.percentile(RAS, WINDOW))}
    for one, other in zip(plain, scaled, strict=True):
        assert np.abs(to_grey(one, WINDOW).astype(int) - to_grey(other, WINDOW)).max() <= 1


def test_a_series_of_volumes_is_numbered_volume_by_volume() -> None:
    decoded = frames(encoded(np.stack([RAS, RAS * 3], axis=-1)))
    assert [f.number for f in decoded] == list(range(12))
    assert decoded[6].pixels[0, 0] == 3 * decoded[0].pixels[0, 0]
    assert decoded[6].grey_range != decoded[0].grey_range
    (flat,) = frames(encoded(RAS[:, :, 2]))
    assert np.array_equal(flat.pixels, decoded[2].pixels)


def test_values_that_are_not_finite_are_background() -> None:
    volume = np.where(RAS < 100, np.nan, RAS).astype(np.float32)
    volume[0, 0, 5] = np.inf
    decoded = frames(encoded(volume))
    assert to_grey(decoded[0], WINDOW).max() == 0
    assert to_grey(decoded[5], WINDOW)[0, 0] == 255
    assert decoded[0].empty
    assert not decoded[5].empty


def test_slices_that_show_next_to_nothing_are_marked_empty() -> None:
    volume = np.zeros((40, 40, 6), np.uint8)
    volume[10:30, 10:30, 2:4] = 200
    assert [f.empty for f in frames(encoded(volume))] == [True, True, False, False, True, True]


def test_colour_becomes_luminance_and_complex_numbers_magnitude() -> None:
    colour = np.zeros((4, 5, 6), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    colour["G"] = X.astype(np.uint8) * 50
    assert np.allclose(frames(encoded(colour))[0].pixels[0], 0.587 * 50 * np.arange(3, -1, -1))
    assert np.allclose(frames(encoded((RAS * 1j).astype(np.complex64)))[1].pixels, frames(encoded(RAS))[1].pixels)


HEADERS = {nib.Nifti1Image: nib.Nifti1Header, nib.Nifti2Image: nib.Nifti2Header}
each_version = pytest.mark.parametrize("kind", HEADERS)


def changed(data: bytes, **fields: object) -> bytes:
    """A file with other values in its header, whatever nibabel thinks of them."""
    cls = nib.Nifti1Header if data[344:348] == b"n+1\0" else nib.Nifti2Header
    header = cls(data[: cls.template_dtype.itemsize], check=False)
    for name, value in fields.items():
        header[name] = value
    return bytes(header.binaryblock) + data[len(header.binaryblock) :]


NO_DIRECTIONS = [
    {"srow_x": [0, 0, 0, 0], "srow_y": [0, 0, 0, 0], "srow_z": [0, 0, 0, 0]},
    {"srow_x": [np.nan, 0, 0, 0]},
    {"srow_y": [0, np.inf, 0, 0]},
    {"srow_z": [0, 0, 0, 7]},
    {"srow_z": [1, 0, 0, 7], "srow_x": [1, 0, 0, 0]},
]


@each_version
@pytest.mark.parametrize("sform", NO_DIRECTIONS)
def test_an_sform_without_directions_gives_way_to_the_qform(kind: type, sform: dict[str, object]) -> None:
    image = kind(RAS[::-1, :, ::-1], np.diag([-1.0, 1, -1, 1]))
    image.set_qform(np.diag([-1.0, 1, -1, 1]), 1)
    data = changed(bytes(image.to_bytes()), sform_code=1, **sform)
    for one, other in zip(frames(data), frames(encoded(RAS)), strict=True):
        assert np.array_equal(one.pixels, other.pixels)


@each_version
@pytest.mark.parametrize(
    "qform", [{"quatern_b": np.nan}, {"quatern_b": 5}, {"pixdim": [1, 0, 1, 1, 0, 0, 0, 0]}, {"qform_code": 0}]
)
def test_without_any_directions_the_axes_are_those_stored_with_the_left_first(
    kind: type, qform: dict[str, object]
) -> None:
    image = kind(RAS[::-1], np.diag([-1.0, 1, 1, 1]))
    image.set_qform(np.diag([-1.0, 1, 1, 1]), 1)
    for sform in (NO_DIRECTIONS[0], {"sform_code": 0}):
        data = changed(bytes(image.to_bytes()), **{"sform_code": 1, **sform, **qform})
        for one, other in zip(frames(data), frames(encoded(RAS)), strict=True):
            assert np.array_equal(one.pixels, other.pixels)


@each_version
@pytest.mark.parametrize("offset", [0, -16, 100, "later"])
def test_voxels_begin_behind_the_header_whatever_the_offset(kind: type, offset: int | str) -> None:
    data, nbytes = encoded(RAS, kind=kind), HEADERS[kind].template_dtype.itemsize + 4
    if offset == "later":
        data, offset = data[:nbytes] + bytes(64) + data[nbytes:], nbytes + 64
    assert np.array_equal(frames(changed(data, vox_offset=offset))[2].pixels, frames(encoded(RAS))[2].pixels)
    if kind is nib.Nifti1Image:
        for odd in (np.nan, np.inf, -np.inf):
            assert np.array_equal(
                frames(changed(encoded(RAS), vox_offset=odd))[2].pixels, frames(encoded(RAS))[2].pixels
            )


@each_version
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "c8", "c16"])
def test_nibabel_reads_the_same_values_of_every_type_and_byte_order(kind: type, order: str, dtype: str) -> None:
    values = (RAS % 120).astype(np.dtype(dtype).newbyteorder(order))
    image = kind(values, np.diag([-2.0, 2, 3, 1]), HEADERS[kind](endianness=order), dtype=values.dtype)
    image.header.set_slope_inter(*((1, 0) if dtype[0] == "c" else (0.5, 3)))
    theirs = np.asanyarray(kind.from_bytes(image.to_bytes()).dataobj)[::-1]
    theirs = np.abs(theirs) if dtype[0] == "c" else theirs
    decoded = frames(bytes(image.to_bytes()))
    assert decoded[0].mode == str(values.dtype.newbyteorder("="))
    for position, one in enumerate(decoded):
        assert np.array_equal(one.pixels, theirs[::-1, ::-1, position].T)


@each_version
@pytest.mark.parametrize("scaling", [(0, 5), (np.inf, 0), (np.nan, np.nan), (1, np.nan), (1, np.inf)])
def test_scaling_that_makes_no_sense_is_ignored(kind: type, scaling: tuple[float, float]) -> None:
    data = changed(encoded(RAS, kind=kind), scl_slope=scaling[0], scl_inter=scaling[1])
    assert np.array_equal(frames(data)[3].pixels, frames(encoded(RAS))[3].pixels)


def test_a_sheared_or_oblique_volume_is_cut_along_the_axis_that_points_up_most() -> None:
    shear = np.array([[1.0, 0, 1.9, 0], [0, 2, 0, 0], [-1.8, 0, 1.2, 0], [0, 0, 0, 1]])
    assert len(frames(encoded(RAS, shear))) == 4
    cosine, sine = np.cos(np.deg2rad(40)), np.sin(np.deg2rad(40))
    oblique = np.array([[2 * cosine, -2 * sine, 0, 0], [2 * sine, 2 * cosine, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]])
    for one, other in zip(frames(encoded(RAS, oblique)), frames(encoded(RAS)), strict=True):
        assert np.array_equal(one.pixels, other.pixels)


def test_single_bits_are_refused() -> None:
    with pytest.raises(SampleError) as raised:
        frames(changed(encoded(RAS), datatype=1, bitpix=1))
    assert raised.value.code in ("unsupported_format", "corrupt")


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"voxels": 119}, "too_many_pixels"),
        ({"frames": 5}, "too_many_frames"),
        ({"pixels": 19}, "too_many_pixels"),
    ],
)
def test_limits_hold_before_decoding(limits: dict[str, int], code: str) -> None:
    with pytest.raises(SampleError) as raised:
        frames(encoded(RAS), **limits)
    assert raised.value.code == code


def test_damage_is_an_error_that_quotes_nothing() -> None:
    data = encoded(RAS)
    with pytest.raises(SampleError, match="truncated"):
        frames(data[:-10])
    header = nib.Nifti1Image.from_bytes(data).header.copy()
    header["descrip"] = b"Doe^John"
    header["datatype"] = 9999
    with pytest.raises(SampleError) as raised:
        frames(header.binaryblock + data[348:])
    assert "Doe" not in str(raised.value)
    assert not is_nifti(gzip.compress(data)[:512])
