"""One picture, whatever the container: planes, emptiness and order of a volume do not depend on its files."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brainscale.config.data_sections import PreprocessConfig
from brainscale.reading.reader import read_samples
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample import Sample
from tests.support.dicom import written
from tests.support.files import zipped as in_zip
from tests.support.samples import LONG
from tests.support.series import as_nifti, as_series, classic, containers, phantom, planes_of

SIDE = 64


def request(slices: str = "axial", source: str = "volume") -> ReadRequest:
    spec = PreprocessConfig(image_size=SIDE, crop=1.0, slices=slices, window_source=source)  # type: ignore[arg-type]
    return ReadRequest(preprocess=spec, key=b"k" * 16)


def read(files: dict[str, bytes], asked: ReadRequest | None = None) -> list[Sample]:
    """The samples of a folder; errors are none."""
    with TemporaryDirectory() as folder:
        for name, data in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        samples = list(read_samples(folder, asked or request()))
    assert [sample.error for sample in samples if sample.error_code] == []
    assert all(sample.waiting is None and sample.plane is not None for sample in samples)
    return samples


def in_order(samples: list[Sample]) -> list[Sample]:
    return sorted(samples, key=lambda sample: -1 if sample.slice_index is None else sample.slice_index)


def apart(one: Sample, other: Sample) -> int:
    """The largest difference of two planes, grey levels."""
    assert one.plane is not None
    assert other.plane is not None
    return int(np.abs(one.plane.astype(int) - other.plane).max())


@settings(max_examples=40 if LONG else 4, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 1000),
    slices=st.sampled_from(["axial", "coronal", "sagittal"]),
    shape=st.tuples(*[st.integers(12, 26)] * 3),
    air=st.integers(1, 4),
    peak=st.sampled_from([60.0, 900.0, 15_000.0]),
)
def test_every_container_gives_the_same_planes_marks_and_order(
    seed: int, slices: str, shape: tuple[int, int, int], air: int, peak: float
) -> None:
    volume = phantom(shape, air, seed, peak)
    asked = request(slices)
    made = containers(volume, slices, seed)
    expected = in_order(read({"v.nii": as_nifti(volume)}, asked))
    for name, files in made.items():
        samples = read(files, asked)
        if "another" in name:
            samples = [sample for sample in samples if sample.sample_id.startswith("one-")]
        found = in_order(samples)
        assert [one.slice_index for one in found] == list(range(len(expected))), name
        assert max(map(apart, found, expected)) <= 1, name
        assert [one.empty for one in found] == [one.empty for one in expected], name
        assert len({one.scan or one.sample_id.partition("#")[0] for one in found}) == 1, name
        assert {one.window_of for one in found} == {"volume"}, name
        assert {one.acquisition.orientation for one in found} == {slices}, name


def test_an_air_slice_is_empty_and_dark_in_a_series_too() -> None:
    """Windowed alone, its noise fills the grey levels, and it is not empty: so it was in single files."""
    volume = phantom((32, 32, 10), air=2)
    air = in_order(read(dict(zip("abcdefghij", as_series(volume), strict=True))))[0]
    (alone,) = read({"a": as_series(volume)[0]})
    assert air.empty
    assert air.plane is not None
    assert air.plane.mean() < 5
    assert alone.plane is not None
    assert alone.plane.mean() > 60
    assert (alone.empty, alone.window_of, alone.slice_index) == (False, "slice", 0)


def test_a_slice_missing_a_copy_and_a_localizer_in_the_series_change_little() -> None:
    volume = phantom()
    files = dict(zip("abcdefghijkl", as_series(volume), strict=True))
    whole = {sample.sample_id: sample for sample in read(files)}
    scout = written(classic(np.full((30, 30), 9000, np.int16), 90, "coronal"))
    copies = {f"again/{name}": files[name] for name in "fgh"}
    some = {name: data for name, data in files.items() if name != "e"}
    found = {sample.sample_id: sample for sample in read({**some, **copies, "scout": scout})}
    assert len(found) == 11 + 3 + 1
    for name in "fgh":
        assert found[name].slice_index == found[f"again/{name}"].slice_index
        assert apart(found[name], found[f"again/{name}"]) == 0
    assert found["scout"].window_of == "slice"
    without = {sample.sample_id: sample for sample in read(some)}
    assert {found[name].window_high for name in some} == {without["a"].window_high}
    assert max(apart(found[name], whole[name]) for name in some) < 20
    assert [found[name].slice_index for name in "abcdfghijkl"] == list(range(11))


def test_volumes_at_the_same_positions_have_windows_of_their_own() -> None:
    """As the volumes of a NIfTI of four dimensions."""
    first, second = phantom(seed=1), phantom(seed=2, peak=4000.0)
    expected = in_order(read({"a.nii": as_nifti(np.stack([first, second], axis=-1))}))
    planes = [*planes_of(first), *planes_of(second)]
    for by_place in (True, False):
        files = {}
        for number, plane in enumerate(planes):
            volume, place = divmod(number, len(planes) // 2)
            instance = 2 * place + volume if by_place else number
            more: dict[str, Any] = {"SOPInstanceUID": f"1.2.3.{number + 1}", "InstanceNumber": instance + 1}
            files[f"{instance:03}"] = written(classic(plane, place, **more))
        found = in_order(read(files))
        assert len({one.window_high for one in found}) == 2
        assert max(map(apart, found, expected)) <= 1
        assert [one.empty for one in found] == [one.empty for one in expected]


def test_monochrome1_and_padding_are_windowed_with_the_series() -> None:
    volume = phantom()
    inverted, padded = {}, {}
    for number, plane in enumerate(planes_of(volume)):
        stored = (4000 - plane).astype(np.int16)
        inverted[f"{number:02}"] = written(classic(stored, number, PhotometricInterpretation="MONOCHROME1"))
        outer = plane.copy()
        outer[:3] = -2000
        ds = classic(outer, number)
        ds.add_new("PixelPaddingValue", "SS", -2000)
        padded[f"{number:02}"] = written(ds)
    expected = in_order(read({"a.nii": as_nifti(volume)}))
    found = in_order(read(inverted))
    assert max(map(apart, found, expected)) <= 1
    assert [one.empty for one in found] == [one.empty for one in expected]
    for one, other in zip(in_order(read(padded)), expected, strict=True):
        assert one.plane is not None
        assert one.plane[:2].max() == 0
        assert one.empty == other.empty


def test_the_window_of_the_file_is_used_where_it_is_wanted() -> None:
    volume = phantom()
    files = {
        f"{number:02}": written(classic(plane, number, WindowCenter=200, WindowWidth=401))
        for number, plane in enumerate(planes_of(volume))
    }
    by_file, by_volume = (in_order(read(files, request(source=source))) for source in ("file", "volume"))
    assert {sample.window_low for sample in by_file} == {None}
    assert len({sample.window_high for sample in by_volume}) == 1
    assert max(map(apart, by_file, by_volume)) > 20


@pytest.mark.parametrize("nbytes", [0, 24 * 28 * 2 * 5])
def test_slices_that_the_decoder_could_not_keep_are_read_again(nbytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder's process is told by its start-up file to keep less."""
    volume = phantom()
    files = dict(zip("abcdefghijkl", as_series(volume), strict=True))
    expected = read(files)
    with TemporaryDirectory() as folder:
        Path(folder, "sitecustomize.py").write_text(STARTUP.format(nbytes=nbytes))
        monkeypatch.syspath_prepend(folder)
        spec = PreprocessConfig(image_size=SIDE, crop=1.0)
        asked = ReadRequest(preprocess=spec, key=b"k" * 15 + bytes([65 + nbytes % 7]))
        found, zipped = read(files, asked), read({"a.zip": in_zip(files)}, asked)
    by_id = {sample.sample_id: sample for sample in found}
    assert max(apart(by_id[sample.sample_id], sample) for sample in expected) == 0
    assert [sample.empty for sample in in_order(zipped)] == [sample.empty for sample in in_order(expected)]
    assert max(map(apart, in_order(zipped), in_order(expected))) == 0


STARTUP = """
import sys
if any(argument.endswith("brainscale.reading.decoder") for argument in sys.orig_argv):
    from brainscale.reading import kept
    kept.KEPT_NBYTES = {nbytes}
"""


def test_what_is_odd_about_a_series_in_a_single_archive_is_noted_at_a_sample_of_it() -> None:
    files = dict(zip("abcdefghijkl", as_series(phantom()), strict=True))
    files |= {"again/f": files["f"]}
    del files["e"]
    notes = {one.sample_id: one.note for one in read({"scan.zip": in_zip(files)}) if one.note}
    (sample_id, note), *others = notes.items()
    assert not others
    assert sample_id.startswith("scan.zip!")
    assert "1 of 1 series have gaps: about 1 slice(s) are missing" in note
    assert "contain 1 slice(s) again" in note


def test_dicom_under_the_name_of_another_format_is_windowed_with_its_series() -> None:
    files = dict(zip("abcdefghijkl", as_series(phantom()), strict=True))
    expected = {one.sample_id: one.window_high for one in read(files)}
    found = read({f"{name}{('', '.jpg', '.nii', '.PNG')[i % 4]}": data for i, (name, data) in enumerate(files.items())})
    assert {one.sample_id[0]: one.window_high for one in found} == expected
    assert {one.window_of for one in found} == {"volume"}
