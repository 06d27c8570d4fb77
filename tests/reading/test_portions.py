"""A zip archive in portions gives the rows of the whole one, to the bit, whatever is in it and wherever it is cut."""

import io
import struct
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from brainscale.config.data_sections import LimitsConfig, PreprocessConfig
from brainscale.errors import SampleError
from brainscale.reading import plan, portions, reader
from brainscale.reading.archives import Member, read_members
from brainscale.reading.children import decoder_of
from brainscale.reading.file_tables import file_table, files_in, groups_of
from brainscale.reading.plan import ReadingPlan
from brainscale.reading.portions import cut_archives
from brainscale.reading.reader import plan_files, read_file, read_tables
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample_ids import file_of
from brainscale.reading.sources import SourceFile, list_files
from brainscale.reading.versions import has_changed
from brainscale.reading.zip_portions import find_portions, read_portion
from tests.support.files import GREY, encoded, tarred, zipped
from tests.support.series import as_enhanced, as_series, phantom

REQUEST = ReadRequest(preprocess=PreprocessConfig(image_size=64, crop=1.0), key=b"k" * 16)
LIMITS = LimitsConfig()
VOLUME = phantom((12, 14, 8), air=1)
SLICES = [*as_series(VOLUME, series="1.2.3"), *as_series(VOLUME // 2 + 50, series="1.2.4")]
PNG = encoded(Image.fromarray(GREY), "PNG")
CONTENTS = {
    "png": PNG,
    "text": b"no image",
    "nothing": b"",
    "damaged": PNG[:60],
    "zip": zipped({"a.png": PNG, "b": SLICES[3], "a.png~2": SLICES[11]}),
    "tar": tarred({"a.png": PNG, "x.hdr": b"no header"}),
    "enhanced": as_enhanced(VOLUME, series="1.2.5"),
    **{f"slice {i}": data for i, data in enumerate(SLICES)},
}
NAMES = ["a.png", "a.png~2", "a.png~2~2", "a", "a~2", "b/c.dcm", "folder/", "d!e#f", "\udcff", "a.png!b"]
Entry = tuple[str, str, str]


def honest(entry: Entry) -> Entry:
    """An entry whose suffix does not hide a DICOM object, which would be windowed alone."""
    name, kind, wrong = entry
    return name, "png" if name.endswith(".png") and kind not in ("text", "nothing", "damaged") else kind, wrong


entry = st.tuples(
    st.sampled_from(NAMES), st.sampled_from(sorted(CONTENTS)), st.sampled_from(["", "", "", "locked", "bad"])
)
entries = st.lists(entry.map(honest), min_size=2, max_size=24)


def make_zip(some: Sequence[Entry]) -> bytes:
    """A zip archive of entries, each a name, what is in it, and what is wrong with it."""
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # a name that comes twice
        for name, kind, _ in some:
            known = name.encode("utf-8", "surrogateescape").decode("cp437") if "\udcff" in name else name
            archive.writestr(known, b"" if name.endswith("/") else CONTENTS[kind])
    data = bytearray(out.getvalue())
    place = data.index(b"PK\x01\x02")
    for _, _, wrong in some:
        if wrong == "locked":
            data[place + 8] |= 1
        if wrong == "bad":
            data[place + 16] ^= 0xFF  # of the checksum
        place += 46 + sum(struct.unpack_from("<3H", data, place + 28))
    return bytes(data)


def described(sample: Any) -> dict[str, Any]:
    facts = asdict(replace(sample, plane=None))
    facts.pop("note")  # of series that are read in two passes, the plan speaks
    return facts | {"plane": None if sample.plane is None else sample.plane.tobytes()}


def rows_of(planned: ReadingPlan) -> list[dict[str, Any]]:
    files = files_in(file_table(planned.files))  # as they travel
    read = (sample for group in groups_of(files) for sample in reader._read_group(group, REQUEST))
    return sorted(map(described, read), key=lambda row: row["sample_id"])


def cut_small(patch: pytest.MonkeyPatch, nbytes: int, group_nbytes: int = 2**28) -> None:
    patch.setattr(portions, "LARGE_NBYTES", 1)
    patch.setattr(portions, "PORTION_NBYTES", nbytes)
    patch.setattr(portions, "DIRECTORIES", 0)
    patch.setattr(plan, "GROUP_NBYTES", group_nbytes)


@given(entries, st.integers(1, 4000), st.sampled_from([0, 5000, 2**28]), st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_archive_has_the_rows_of_the_whole_one(
    some: list[Entry], nbytes: int, group_nbytes: int, with_another: bool
) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        (Path(folder) / "x.zip").write_bytes(make_zip(some))
        if with_another:
            (Path(folder) / "y.dcm").write_bytes(SLICES[0])
            (Path(folder) / "z.zip").write_bytes(make_zip([("q", "slice 1", ""), ("r", "slice 2", ""), *some[::2]]))
        files = list_files([folder])
        whole = plan_files(files, REQUEST)
        assert not any(file.members for file in whole.files)
        cut_small(patch, nbytes, group_nbytes)
        planned = plan_files(files, REQUEST)
        keys = [file.key for file in planned.files]
        assert len(set(keys)) == len(keys)
        rows = rows_of(planned)
        assert rows == rows_of(whole)
        ids = [row["sample_id"] for row in rows]
        assert len(set(ids)) == len(ids)


@given(entries, st.integers(1, 4000))
@settings(max_examples=60, deadline=None)
def test_portions_follow_on_each_other_and_give_every_member_once(some: list[Entry], nbytes: int) -> None:
    data = make_zip(some)
    found = [facts for facts, _ in find_portions(io.BytesIO(data), nbytes, 0, LIMITS)]
    if not found:
        return
    assert [one["first"] for one in found] == [0, *(one["stop"] for one in found[:-1])]
    assert found[-1]["stop"] == len(some)
    assert all(one["nbytes"] >= nbytes for one in found[:-1])
    whole = list(read_members(io.BytesIO(data), len(data), LIMITS))
    parts = [list(read_portion(io.BytesIO(data), LIMITS, (one["first"], one["stop"]))) for one in found]
    assert all(parts)
    assert list(map(simple, chain.from_iterable(parts))) == list(map(simple, whole))


def simple(member: Member) -> tuple[Any, ...]:
    return member.path, member.data, member.nbytes, member.error and str(member.error), member.note, member.skipped


def found_in(data: bytes, nbytes: int = 1, directories: int = 0, **limits: int) -> list[tuple[int, int]]:
    answers = find_portions(io.BytesIO(data), nbytes, directories, LimitsConfig(**limits))
    return [(facts["first"], facts["stop"]) for facts, _ in answers]


def test_only_a_zip_with_a_directory_and_without_pairs_is_cut() -> None:
    files = {f"{i}.png": PNG for i in range(6)}
    data = zipped(files)
    assert found_in(data) == [(0, 2), *((i, i + 1) for i in range(2, 7))]
    assert found_in(data, len(data)) == []
    assert found_in(data, directories=10**6) == []
    assert found_in(data, entries=7)
    assert found_in(data, entries=6) == []
    assert found_in(data[: data.index(b"PK\x01\x02")]) == []
    assert found_in(data[:-30]) == []
    assert found_in(tarred(files)) == found_in(PNG) == found_in(b"") == []
    for name in ("a.hdr", "b/C.IMG", "c.img.gz"):
        assert found_in(zipped({**files, name: b"x"})) == []
    damaged = bytearray(data)
    damaged[data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4) + 2] = 0
    assert found_in(bytes(damaged)) == []


def test_members_that_overlap_are_not_cut() -> None:
    data = bytearray(zipped({"a": bytes(5000), "b": bytes(5000)}, compression=zipfile.ZIP_STORED))
    place = data.index(b"PK\x01\x02")
    for _ in range(3):
        struct.pack_into("<L", data, place + 20, 10_000)
        place += 46 + sum(struct.unpack_from("<3H", data, place + 28))
    assert found_in(bytes(data)) == []


def test_a_dicom_object_that_is_called_an_image_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.zip").write_bytes(zipped({"a.png": SLICES[3], "b.PNG": SLICES[4], "c.dcm": SLICES[5]}))
    cut_small(monkeypatch, 1)
    rows = rows_of(plan_files(list_files([str(tmp_path)]), REQUEST))
    assert [(row["member"], row["window_of"]) for row in rows] == [
        ("a.png", "slice"),
        ("b.PNG", "slice"),
        ("c.dcm", "slice"),
    ]


def test_a_portion_of_folders_has_no_rows() -> None:
    data = make_zip([("folder/", "png", ""), ("folder/", "png", ""), ("a.png", "png", "")])
    assert list(read_portion(io.BytesIO(data), LIMITS, (0, 2))) == []
    assert [member.path for member in read_portion(io.BytesIO(data), LIMITS, (2, 3))] == [("a.png",)]
    assert found_in(make_zip([("a.png", "png", ""), ("folder/", "png", ""), ("b", "png", ""), ("folder/", "png", "")]))


def test_a_portion_has_a_budget_of_its_own() -> None:
    files = {f"{i}": bytes(40 * 2**20) for i in range(4)}
    data = zipped(files)
    (*read, last) = read_portion(io.BytesIO(data), LimitsConfig(ratio=1), (1, 4))
    assert (len(read), last.path, last.error and last.error.code) == (1, (), "compression_bomb")
    (only,) = read_portion(io.BytesIO(data), LimitsConfig(ratio=1), (4, 5))
    assert only.data == files["3"]
    (*_, last) = read_portion(io.BytesIO(zipped({"a": zipped({"b": b"", "c": b""})})), LimitsConfig(entries=2), (1, 2))
    assert last.error
    assert last.error.code == "too_many_entries"


def test_another_archive_in_its_place_is_an_error_of_the_portion(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zipped({"a.png": PNG}))
    (file,) = list_files([str(tmp_path)])
    samples = [sample for members in ((0, 5), (5, 9)) for sample in read_file(replace(file, members=members), REQUEST)]
    assert [(s.sample_id, s.member, s.frame, s.error_code) for s in samples] == [
        ("x.zip", None, None, "corrupt_archive"),
        ("x.zip#5", None, 5, "corrupt_archive"),
    ]
    (tmp_path / "x.zip").unlink()
    (gone,) = read_file(replace(file, members=(5, 9)), REQUEST)
    assert (gone.sample_id, file_of(gone.sample_id), gone.error_code) == ("x.zip#5", "x.zip", "gone")


def test_a_portion_has_changed_when_its_archive_has(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(zipped({"a.png": PNG}))
    (file,) = list_files([str(tmp_path)])
    portion = replace(file, members=(0, 1), nbytes=5)
    assert not has_changed(portion)
    assert has_changed(replace(portion, modified=1))


def cut(file: SourceFile) -> list[SourceFile]:
    return cut_archives([file], REQUEST, lambda some, read: read(file_table(some)))


def ask_with(answers: Sequence[object], file: SourceFile, patch: pytest.MonkeyPatch) -> list[SourceFile]:
    class TakenOver:
        def ask(self, facts: object, stream: object) -> Iterator[object]:
            yield from ((facts, b"") for facts in answers)

    patch.setattr(portions, "decoder_of", lambda request: TakenOver())
    cut_small(patch, 10)
    return cut(file)


ONE, TWO = {"first": 0, "stop": 3, "nbytes": 10}, {"first": 3, "stop": 4, "nbytes": 2}


@pytest.mark.parametrize(
    ("answers", "count"),
    [
        ([ONE, TWO], 2),
        ([ONE], 1),
        ([], 1),
        ([ONE, TWO | {"first": 2}], 1),
        ([ONE | {"first": 1}, TWO], 1),
        ([ONE, TWO | {"stop": 3}], 1),
        ([ONE, TWO | {"stop": 10**9}], 1),
        ([ONE | {"nbytes": 9}, TWO], 1),
        ([ONE, TWO | {"nbytes": -1}], 1),
        ([ONE, TWO | {"nbytes": 10**9}], 1),
        ([ONE, TWO | {"more": 1}], 1),
        ([ONE, TWO | {"stop": True}], 1),
        ([ONE, {"path": []}], 1),
    ],
)
def test_what_a_decoder_says_of_portions_is_checked(
    answers: list[object], count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.zip").write_bytes(bytes(100))
    (file,) = list_files([str(tmp_path)])
    assert len(ask_with(answers, file, monkeypatch)) == count


def test_an_archive_that_ends_its_decoder_is_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.zip").write_bytes(zipped({f"{i}.png": PNG for i in range(6)}))
    (file,) = list_files([str(tmp_path)])
    cut_small(monkeypatch, 10)
    assert len(cut(file)) > 2
    monkeypatch.setattr(portions, "DIRECTORIES", "many")  # what no child can multiply
    assert cut(file) == [file]


def ask_nobody(files: Sequence[SourceFile], read: portions.Read) -> list[pa.Table]:
    raise AssertionError(files)


@pytest.mark.parametrize("name", ["x.tar", "x.TAR.GZ", "x.nii", "x.img", "x.png"])
def test_files_of_other_kinds_are_not_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_small(monkeypatch, 10)
    file = SourceFile(sample_id=name, uri=f"/{name}", nbytes=10**9)
    assert cut_archives([file], REQUEST, ask_nobody) == [file]
    samples = SourceFile(sample_id="x.zip", uri="/x.zip", nbytes=10**9, sample_ids=("x.zip!a",))
    assert cut_archives([samples], REQUEST, ask_nobody) == [samples]


def test_a_crash_in_a_portion_costs_one_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that is too slow ends the decoder; reading goes on behind it, inside the portion."""
    names = [f"{i}.png" for i in range(6)]
    (tmp_path / "x.zip").write_bytes(zipped(dict.fromkeys(names, PNG)))
    (file,) = list_files([str(tmp_path)])
    answers = decoder_of(REQUEST)
    ended: list[bool] = []

    class Crashing:
        def ask(self, facts: dict[str, Any], *streams: Any) -> Iterator[Any]:
            for number, answer in enumerate(answers.ask(facts, *streams)):
                yield answer
                if number == 2 and not ended:
                    ended.append(True)
                    raise SampleError("decoder_crashed", "the file crashed its decoder")

    monkeypatch.setattr(reader, "decoder_of", lambda request: Crashing())
    samples = list(read_file(replace(file, members=(2, 6)), REQUEST))
    assert [(s.member, s.error_code) for s in samples] == [
        ("1.png", None),
        ("2.png", "decoder_crashed"),
        ("3.png", None),
        ("4.png", None),
    ]


def test_each_portion_has_the_windows_of_its_own_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.zip").write_bytes(zipped({f"{i:02}.dcm": data for i, data in enumerate(SLICES)}))
    cut_small(monkeypatch, 1, group_nbytes=0)
    planned = plan_files(list_files([str(tmp_path)]), REQUEST, name_series=True)
    assert len(planned.files) == len(SLICES)
    assert [list(file.windows or {}) for file in planned.files] == [[f"x.zip!{i:02}.dcm"] for i in range(len(SLICES))]
    assert {name for named in planned.series.values() for name in named.values()} == {"x.zip!00.dcm", "x.zip!08.dcm"}
    assert "; the first is 'x.zip'" in planned.notices[-1]
    assert planned.notices[-1].startswith("1 file(s)")
    table = read_tables(file_table(planned.files), request=REQUEST)
    assert sum(len(rows) for rows in table) == len(SLICES)


def test_portions_of_a_small_series_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.zip").write_bytes(zipped({f"{i:02}": SLICES[(i % 2) * 8 + i // 2] for i in range(16)}))
    cut_small(monkeypatch, 1)
    planned = plan_files(list_files([str(tmp_path)]), REQUEST)
    assert [len(group) for group in groups_of(planned.files)] == [8, 8]
    assert planned.files[0].members == (0, 2)
