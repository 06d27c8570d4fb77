"""Of the text in a DICOM object, only the identifiers of patient and series come out."""

import logging
import warnings

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import RLELossless

from tests.support.dicom import NAME, PLANE, SYNTAXES, dataset, frame, outcome, volume, written


def test_the_identifiers_of_patient_and_series_are_read() -> None:
    decoded = frame(dataset(PLANE, PatientID=" A7 ", IssuerOfPatientID="Hospital"))
    assert (decoded.patient, decoded.issuer, decoded.scan) == ("A7", "Hospital", "1.2.3")
    assert frame(dataset(PLANE, PatientID=" A7 ")).patient == "A7"
    bare = frame(dataset(PLANE, PatientID="", IssuerOfPatientID="Hospital", SeriesInstanceUID=""))
    assert (bare.patient, bare.scan) == (None, None)


def test_a_frame_holds_no_other_text() -> None:
    decoded = frame(dataset(PLANE, PatientID="A7", StudyDescription=NAME))
    assert "SECRET" not in repr(decoded)


@settings(max_examples=150, derandomize=True, database=None)
@given(st.sampled_from(SYNTAXES), st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8))
def test_errors_of_damaged_files_quote_no_text(syntax: str, changes: list[tuple[float, int]]) -> None:
    data = bytearray(volume(syntax))
    for position, value in changes:
        data[int(position * len(data))] = value
    text = outcome(bytes(data))
    assert "SECRET" not in text
    assert "Doe" not in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "keyword",
    [
        "PhotometricInterpretation",
        "NumberOfFrames",
        "WindowCenter",
        "SOPClassUID",
        "SpecificCharacterSet",
        "VOILUTFunction",
    ],
)
def test_errors_quote_no_element(keyword: str) -> None:
    ds = dataset(PLANE)
    vr = pydicom.datadict.dictionary_VR(keyword)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.add(pydicom.dataelem.DataElement(keyword, vr, "1.2", validation_mode=0))
        data = written(ds).replace(b"1.2\0" if vr == "UI" else b"1.2 ", b"SECR")
    assert "SECR" not in outcome(data)
    assert "SECR" not in outcome(data[:-40])


def test_nothing_is_logged_or_printed(capfd: pytest.CaptureFixture[str]) -> None:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    whole = volume(RLELossless)
    outcomes = [outcome(whole[:length]) for length in range(200, len(whole), 400)]
    logging.getLogger().removeHandler(handler)
    assert any(outcomes)
    assert records == []
    assert capfd.readouterr() == ("", "")
