"""What a decoder says is checked: one that was taken over can make rows of errors, and nothing worse."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from brainscale.config.sections import PreprocessConfig
from brainscale.errors import SampleError
from brainscale.reading import reader
from brainscale.reading.answers import FACTS, check_facts, is_text
from brainscale.reading.request import ReadRequest
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
    ],
)
def test_what_no_decoder_says_is_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(SampleError, match="decoder_crashed: the decoder's answer makes no sense"):
        check_facts(facts, FACTS)


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
