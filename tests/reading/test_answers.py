"""What a decoder says is checked: one that was taken over can make rows of errors, and nothing worse."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from brainscale.config.data_sections import PreprocessConfig
from brainscale.errors import SampleError
from brainscale.reading import look, reader
from brainscale.reading.answers import FACTS, check_facts, fields_of, is_text
from brainscale.reading.file_tables import file_table
from brainscale.reading.histogram import count_values
from brainscale.reading.request import ReadRequest
from brainscale.reading.series import SliceWindow
from brainscale.reading.sources import list_files
from tests.support.files import GREY, encoded

MEMBER = {"member": 0, "path": [], "nbytes": 4, "sha256": "ab", "note": None}
REQUEST = ReadRequest(preprocess=PreprocessConfig(image_size=64))


@pytest.mark.parametrize(
    "facts",
    [
        {"label": "tumour"},
        {"sample_id": "another"},
        {"width": "wide"},
        {"width": 2**40},
        {"width": -1},
        {"frame": 1.5},
        {"error_code": "no_such_code", "error": "x"},
        {"error": "two\nlines"},
        {"error": "x" * 2000},
        {"mode": "\ud800"},
        {"empty": None},
        {"plane": "x"},
        {"uri": "elsewhere"},
        {"window_of": "volume"},
        {"waiting": {}},
        {"slice_index": -1},
        {"slice_index": 0.5},
        {"alone": 1},
        {"kept": 7},
        {"window": [1.0]},
        {"window": [float("nan"), 1.0]},
        {"window": [True, 1.0]},
        {"window": 1.0},
        {"phash": "12"},
        {"head_phash": "g" * 16},
        {"signature": "ab"},
        {"signature": "\u0661" * 512},
        {"scan": "a name"},
        {"patient": "A" * 32},
        {"acquisition": None},
        {"acquisition": {"echo_time": float("inf")}},
        {"acquisition": {"echo_time": "long"}},
        {"acquisition": {"burned_in": "NO"}},
        {"acquisition": {"modality": "two\nlines"}},
        {"acquisition": {"patient_name": "x"}},
        {"slice": {"geometry": [0.0] * 8}},
        {"slice": {"geometry": [0.0] * 8 + [float("inf")]}},
        {"slice": {"instance": "1.2.3"}},
        {"slice": {"number": float("nan")}},
        {"slice": {"inverted": None}},
        {"slice": {"bright": "very"}},
        {"slice": {"sample_id": "another"}},
        {"slice": []},
    ],
)
def test_what_no_decoder_says_is_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(SampleError, match="decoder_crashed: the decoder's answer makes no sense"):
        check_facts(facts, FACTS)


@pytest.mark.parametrize(
    "histogram",
    [
        b"",
        b"no histogram",
        zlib.compress(bytes(15)),
        zlib.compress(bytes(2**28)),
        zlib.compress(np.array([1.0]).tobytes() + np.array([0]).tobytes()),
        zlib.compress(np.array([1.0]).tobytes() + np.array([2**62]).tobytes()),
        zlib.compress(np.array([np.nan]).tobytes() + np.array([1]).tobytes()),
        count_values(np.arange(9)).to_bytes()[:-3],
    ],
)
def test_a_histogram_is_checked_before_it_travels(histogram: bytes) -> None:
    with pytest.raises(SampleError, match="makes no sense"):
        fields_of({"slice": {}}, memoryview(histogram), 64)


def test_what_a_decoder_says_of_a_slice_is_taken_over() -> None:
    histogram = count_values(np.arange(2**16)).to_bytes()
    slice_facts = {"geometry": [1, 0, 0, 0, 1, 0, 0.5, 0, 3], "number": 2.0, "inverted": False, "bright": 9.0}
    facts = {"slice": slice_facts, "kept": "name-1", "scan": "0" * 32, "signature": "ff" * 256, "phash": None}
    found = fields_of(facts | {"acquisition": {"echo_time": 30.0}}, memoryview(histogram), 64)
    waiting = found["waiting"]
    assert (waiting.facts.geometry[8], waiting.kept, waiting.histogram) == (3, "name-1", histogram)
    assert (found["signature"], found["acquisition"].echo_time) == (b"\xff" * 256, 30.0)
    shown = fields_of({"window": [0.0, 9.0], "slice_index": 0, "alone": True}, memoryview(bytes(64**2)), 64)
    assert (shown["window_high"], shown["window_of"], shown["plane"].shape) == (9.0, "slice", (64, 64))


def test_text_is_what_every_table_can_hold() -> None:
    assert is_text("Größe\n")
    assert not is_text("\ud800")
    assert not is_text(7)


@pytest.mark.parametrize(
    "answers",
    [
        [({**MEMBER, "path": "x"}, b"")],
        [({**MEMBER, "path": [1]}, b"")],
        [({**MEMBER, "member": "first"}, b"")],
        [({**MEMBER, "nbytes": 2**70}, b"")],
        [(MEMBER, b""), ({"format": "PNG"}, b"short")],
        [(MEMBER, b""), ({"format": 5}, b"x" * 64**2)],
    ],
)
def test_a_decoder_that_was_taken_over_makes_an_error(
    answers: list[tuple[dict[str, Any], bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TakenOver:
        def ask(self, facts: object, stream: object) -> object:
            yield from ((dict(facts), memoryview(plane)) for facts, plane in answers)

    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(GREY), "PNG"))
    monkeypatch.setattr(reader, "decoder_of", lambda request: TakenOver())
    (sample,) = reader.read_samples(tmp_path, REQUEST)
    assert (sample.sample_id, sample.error_code, sample.plane) == ("a.png", "decoder_crashed", None)


@pytest.mark.parametrize(
    ("change", "is_said"),
    [({}, True), ({"frames": -1}, False), ({"scan": "1.2.3"}, False), ({"path": "x"}, False), ({"more": 1}, False)],
)
def test_what_a_decoder_says_of_a_series_is_checked(
    change: dict[str, Any], is_said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"path": [], "scan": "0" * 32, "instance": None, "geometry": None, "number": None}
    facts |= {"frames": 1, "width": 3, "height": None, "inverted": False}

    class TakenOver:
        def ask(self, asked: object, stream: object) -> object:
            yield {**facts, **change}, memoryview(b"")

    (tmp_path / "a").write_bytes(b"x")
    monkeypatch.setattr(look, "decoder_of", lambda request: TakenOver())
    tables = list(look.look_into(file_table(list_files([str(tmp_path)])), request=REQUEST))
    assert [table["sample_id"].to_pylist() for table in tables] == ([["a"]] if is_said else [])


@pytest.mark.parametrize("said", [[{"missing": 1}], [{}], [{"missing": False}], [{"missing": True}] * 9])
def test_kept_slices_that_make_no_sense_are_read_again(
    said: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class TakenOver:
        def ask(self, asked: object, stream: object) -> object:
            yield from ((facts, memoryview(b"short")) for facts in said)

    monkeypatch.setattr(reader, "decoder_of", lambda request: TakenOver())
    window = SliceWindow(low=0.0, high=1.0, slice_index=0, alone=False, empty=False)
    assert reader._show_kept([("a", window), ("b", window)], REQUEST) == [None, None]
