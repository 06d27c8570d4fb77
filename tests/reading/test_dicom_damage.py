"""Damaged DICOM files, and all that pydicom installs, give frames or a stable error code."""

import collections
import os
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from brainscale.errors import SampleError
from tests.support.dicom import INSTALLED, SYNTAXES, frames, outcome, refusal, volume


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_truncation_gives_frames_or_a_sample_error(syntax: str) -> None:
    whole = volume(syntax)
    assert len(frames(whole)) == 2
    outcomes = [outcome(whole[:length]) for length in range(0, len(whole), max(7, len(whole) // 150))]
    assert {text.partition(":")[0] for text in outcomes} <= {"", "corrupt", "truncated", "no_pixels"}
    assert not any("SECRET" in text or "Doe" in text for text in outcomes)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_an_image_cut_short_is_truncated(syntax: str) -> None:
    whole = volume(syntax)
    assert {refusal(whole[: len(whole) - cut]).code for cut in (1, 2, 600, 3000)} == {"truncated"}


def test_a_deflated_stream_cut_short_is_corrupt() -> None:
    whole = volume(DeflatedExplicitVRLittleEndian)
    assert refusal(whole[:-20]).code == "corrupt"


EXPECTED = {"frames": 90, "no_pixels": 17, "truncated": 54, "corrupt": 15}


def test_every_file_that_pydicom_installs_gives_frames_or_the_expected_error() -> None:
    outcomes: collections.Counter[str] = collections.Counter()
    for folder, _, names in os.walk(INSTALLED):
        for name in names:
            try:
                decoded = frames((Path(folder) / name).read_bytes())
            except SampleError as error:
                outcomes[error.code] += 1
            else:
                outcomes["frames"] += 1
                for one in decoded:
                    assert one.pixels.shape == (one.height, one.width)
                    assert np.isrealobj(one.pixels)
    if not outcomes:
        pytest.skip("NOT TESTED: this pydicom brings no test files")
    assert outcomes == EXPECTED
