"""What a header says of how a picture was taken: in defined terms only, and never at the cost of the picture."""

import json
from io import BytesIO
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from brainscale.config.data_sections import PreprocessConfig
from brainscale.reading.acquisition import UNSTATED, name_orientation
from brainscale.reading.decoder import decode
from brainscale.reading.formats import dicom_acquisition as header
from brainscale.reading.request import ReadRequest
from tests.support.dicom import NAME, PLANE, dataset, frame, frames, item, written

AXIAL, CORONAL, SAGITTAL = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1]
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
ENHANCED = "1.2.840.10008.5.1.4.1.1.4.1"
REQUEST = ReadRequest(preprocess=PreprocessConfig(image_size=64))
MULTIPLE = np.stack([PLANE, PLANE])

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def stated(**elements: object) -> dict[str, Any]:
    """What is known of an MR image with these elements, without its modality."""
    acquisition = frame(dataset(PLANE, **elements)).acquisition
    known = {name: getattr(acquisition, name) for name in acquisition.__dataclass_fields__}
    return {name: value for name, value in known.items() if value is not None and name != "modality"}


def raw(**elements: bytes) -> bytes:
    """An MR image with elements whose bytes are written as they are."""
    ds = dataset(PLANE)
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    for keyword, value in elements.items():
        tag = pydicom.datadict.tag_for_keyword(keyword)
        ds[keyword] = pydicom.dataelem.RawDataElement(
            pydicom.tag.Tag(tag), pydicom.datadict.dictionary_VR(tag), len(value), value, 0, False, True
        )
    return written(ds)


@pytest.mark.parametrize(
    ("elements", "kind", "burned_in"),
    [
        ({}, None, None),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]}, "original", None),
        ({"ImageType": "ORIGINAL"}, "original", None),
        ({"ImageType": ["original ", "Primary"]}, "original", None),
        ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, "derived", None),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer", None),
        ({"ImageType": ["DERIVED", "SECONDARY", "LOCALIZER"]}, "localizer", None),
        ({"ImageType": ["ORIGINAL", "PRIMARY"], "SeriesDescription": "3-plane LOCALIZER"}, "localizer", None),
        ({"ImageType": ["ORIGINAL", "PRIMARY"], "ProtocolName": "AAHead_Scout"}, "localizer", None),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "secondary_capture", True),
        ({"SOPClassUID": CAPTURE, "ImageType": ["DERIVED", "SECONDARY"]}, "secondary_capture", True),
        ({"SOPClassUID": f"{CAPTURE}.4", "BurnedInAnnotation": "NO"}, "secondary_capture", True),
        ({"SOPClassUID": f"{CAPTURE}7"}, None, None),
        ({"BurnedInAnnotation": "YES"}, None, True),
        ({"BurnedInAnnotation": "yes "}, None, True),
        ({"BurnedInAnnotation": "NO"}, None, False),
        ({"BurnedInAnnotation": NAME}, None, None),
    ],
)
def test_kinds_of_images(elements: dict[str, object], kind: str | None, burned_in: bool | None) -> None:
    known = stated(**elements)
    assert (known.get("image_kind"), known.get("burned_in")) == (kind, burned_in)


@pytest.mark.parametrize(
    ("modality", "sop_class", "expected"),
    [
        ("MR", None, "MR"),
        ("ct", None, "CT"),
        ("OT", CAPTURE, "OT"),
        (None, None, "MR"),  # the class of an MR image
        (None, ENHANCED, "MR"),
        (None, "1.2.840.10008.5.1.4.1.1.2", "CT"),
        (None, CAPTURE, None),
        (None, "1.2.3", None),
        ("MR of " + NAME, CAPTURE, None),
    ],
)
def test_the_modality_is_stated_or_that_of_the_class(
    modality: str | None, sop_class: str | None, expected: str | None
) -> None:
    elements = {"Modality": modality, "SOPClassUID": sop_class}
    decoded = frame(dataset(PLANE, **{name: value for name, value in elements.items() if value is not None}))
    assert decoded.acquisition.modality == expected


def test_the_known_values_of_an_image_type_come_out_each_once_and_in_order() -> None:
    values = ["ORIGINAL", "PRIMARY", NAME, "M", "m", *[f"{NAME} {n}" for n in range(300)], "ND"]
    assert stated(ImageType=values)["image_type"] == "ORIGINAL\\PRIMARY\\M\\ND"
    assert "image_type" not in stated(ImageType=[NAME] * 300)
    assert "image_type" not in stated(ImageType="")


@pytest.mark.parametrize(
    ("directions", "name"),
    [
        (AXIAL, "axial"),
        (CORONAL, "coronal"),
        (SAGITTAL, "sagittal"),
        ([0.6, 0.8, 0, -0.8, 0.6, 0], "axial"),  # turned in its plane
        ([1, 0, 0, 0, 0.866, 0.5], "axial"),  # 30 degrees off
        ([1, 0, 0, 0, 0.77, 0.64], "oblique"),  # 40 degrees off
        ([1, 0, 0, 0, 0.5, 0.866], "coronal"),
        ([-2, 0, 0, 0, -3, 0], "axial"),  # of no unit length
        ([0, 0, 0, 0, 0, 0], None),
        ([1, 0, 0, 1, 0, 0], None),
        ([float("nan"), 0, 0, 0, 1, 0], None),
    ],
)
def test_orientations(directions: list[float], name: str | None) -> None:
    assert name_orientation(directions[:3], directions[3:]) == name


@pytest.mark.parametrize(
    "values", ["", "1", "1\\0\\0\\0\\1", "1\\0\\0\\0\\1\\0\\0", "a\\b\\c\\d\\e\\f", "1\\0\\0\\0\\1\\x"]
)
def test_an_orientation_that_makes_no_sense_is_none(values: str) -> None:
    (answer,) = decode(raw(ImageOrientationPatient=values.encode()), REQUEST)
    assert "error" not in answer[0]
    assert "orientation" not in answer[0]["acquisition"]


def test_sequence_facts_of_a_classic_object() -> None:
    known = stated(
        ScanningSequence=["SE", "IR"],
        RepetitionTime=9000.0,
        EchoTime=124.5,
        InversionTime=2500,
        MagneticFieldStrength=3,
        ContrastBolusAgent=NAME,
        ImageOrientationPatient=AXIAL,
    )
    assert known == {
        "scanning_sequence": "SE\\IR",
        "repetition_time": 9000.0,
        "echo_time": 124.5,
        "inversion_time": 2500.0,
        "field_strength": 3.0,
        "contrast": True,
        "orientation": "axial",
    }


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"MagneticFieldStrength": 15000}, {"field_strength": 1.5}),  # in gauss
        ({"MagneticFieldStrength": 19700101}, {}),
        ({"MagneticFieldStrength": -1}, {}),
        ({"RepetitionTime": 19700101}, {}),
        ({"EchoTime": -5}, {}),
        ({"InversionTime": 1e30}, {}),
        ({"EchoTime": 2.123456789}, {"echo_time": 2.1235}),
        ({"ContrastBolusAgent": "NONE"}, {"contrast": False}),
        ({"ContrastBolusAgent": ""}, {}),
        ({"ContrastBolusVolume": 7.5}, {"contrast": True}),
        ({"ContrastBolusVolume": 0}, {}),
        ({"ScanningSequence": ["se", NAME]}, {"scanning_sequence": "SE"}),
    ],
)
def test_odd_sequence_facts(elements: dict[str, object], expected: dict[str, object]) -> None:
    assert stated(**elements) == expected


def enhanced(**elements: object) -> Dataset:
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=AXIAL)],
        MRTimingAndRelatedParametersSequence=[item(RepetitionTime=500.0)],
        MRImageFrameTypeSequence=[item(FrameType=["ORIGINAL", "PRIMARY", "T1", NAME])],
        MRModifierSequence=[item(InversionTimes=[900.0, 20.0])],
    )
    own = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=SAGITTAL)],
        MREchoSequence=[item(EffectiveEchoTime=20.0)],
        MRImageFrameTypeSequence=[item(FrameType=["ORIGINAL", "PRIMARY", "LOCALIZER"])],
        ContrastBolusUsageSequence=[item(ContrastBolusAgentAdministered="NO")],
    )
    return dataset(
        MULTIPLE,
        frames=2,
        SOPClassUID=ENHANCED,
        ImageType=["ORIGINAL", "PRIMARY", "MIXED"],
        EchoPulseSequence="BOTH",
        InversionRecovery="YES",
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=[item(), own],
        **elements,
    )


def test_frames_of_an_enhanced_object_have_their_own_facts_or_the_shared_ones() -> None:
    one, other = (decoded.acquisition for decoded in frames(enhanced()))
    assert (one.modality, one.orientation, one.image_kind) == ("MR", "axial", "original")
    assert (one.image_type, one.scanning_sequence) == ("ORIGINAL\\PRIMARY\\T1", "SE\\GR\\IR")
    assert (one.repetition_time, one.echo_time, one.inversion_time) == (500.0, None, 900.0)
    assert (other.modality, other.orientation, other.image_kind) == ("MR", "sagittal", "localizer")
    assert (other.repetition_time, other.echo_time, other.burned_in) == (500.0, 20.0, None)


def test_a_capture_of_several_frames_stays_a_capture() -> None:
    ds = enhanced()
    ds.SOPClassUID = f"{CAPTURE}.3"
    assert [(f.acquisition.image_kind, f.acquisition.burned_in) for f in frames(ds)] == [
        ("secondary_capture", True)
    ] * 2


@pytest.mark.parametrize(
    ("affine", "slices", "expected"),
    [
        (np.diag([1, 1, 1, 1]), "axial", "axial"),
        (np.diag([1, 1, 1, 1]), "coronal", "coronal"),
        (np.array([[0, 0, -3, 0], [2, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]), "axial", "axial"),
        (np.array([[0, 0, -3, 0], [2, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]), "sagittal", "sagittal"),
        (np.array([[1, 0, 0, 0], [0, 0.77, -0.64, 0], [0, 0.64, 0.77, 0], [0, 0, 0, 1]]), "axial", "oblique"),
        (None, "axial", None),
    ],
)
def test_slices_of_a_volume_lie_as_its_affine_says(
    affine: np.ndarray | None, slices: str, expected: str | None
) -> None:
    image = nib.Nifti1Image(np.random.default_rng(0).integers(0, 99, (6, 7, 8)).astype(np.int16), affine)
    if affine is None:
        image.header["sform_code"] = image.header["qform_code"] = 0
    out = BytesIO()
    image.to_file_map({"image": nib.FileHolder(fileobj=out), "header": nib.FileHolder(fileobj=out)})
    request = ReadRequest(preprocess=PreprocessConfig(image_size=64, slices=slices))
    answers = list(decode(out.getvalue(), request))
    assert {facts["acquisition"].get("orientation") for facts, _ in answers} == {expected}
    assert all(set(facts["acquisition"]) <= {"orientation"} for facts, _ in answers)


def test_a_plain_image_states_nothing() -> None:
    from PIL import Image

    out = BytesIO()
    Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10)).save(out, "PNG")
    ((facts, _),) = decode(out.getvalue(), REQUEST)
    assert facts["acquisition"] == {}
    assert UNSTATED.modality is None


KEYWORDS = [
    *("Modality", "ImageType", "BurnedInAnnotation", "ScanningSequence", "EchoPulseSequence", "InversionRecovery"),
    *("EchoPlanarPulseSequence", "ContrastBolusAgent", "SeriesDescription", "ProtocolName", "SOPClassUID"),
    *("RepetitionTime", "EchoTime", "InversionTime", "MagneticFieldStrength", "ImageOrientationPatient"),
    *("ContrastBolusVolume",),
]
ALLOWED = {
    "modality": header.MODALITIES,
    "image_kind": {"original", "derived", "localizer", "secondary_capture"},
    "orientation": {"axial", "coronal", "sagittal", "oblique"},
    "image_type": header.IMAGE_TYPES,
    "scanning_sequence": header.SEQUENCES,
}
NUMBERS = {**header.MAX_MS, "field_strength": header.MAX_TESLA}


def require_defined(acquisition: dict[str, object]) -> None:
    for name, value in acquisition.items():
        if name in ALLOWED:
            assert isinstance(value, str)
            assert set(value.split("\\")) <= ALLOWED[name]
            assert len(value) < 2000
        elif name in NUMBERS:
            assert isinstance(value, float)
            assert 0 <= value <= NUMBERS[name]
            assert round(value, header.DIGITS) == value
        else:
            assert name in ("burned_in", "contrast")
            assert isinstance(value, bool)


TEXT = st.lists(
    st.sampled_from([NAME, "ORIGINAL", "doe^john", "LOCALIZER", "MR", "SE", "1.5", "-1", "1e400"]), max_size=9
)
BYTES = st.one_of(st.binary(max_size=40), TEXT.map(lambda values: "\\".join(values).encode()))


@given(elements=st.dictionaries(st.sampled_from(KEYWORDS), BYTES, max_size=6))
def test_nothing_but_defined_terms_and_plausible_numbers_leaves_the_decoder(elements: dict[str, bytes]) -> None:
    for facts, _ in decode(raw(**elements), REQUEST):
        assert facts.get("error_code") is None  # a header that makes no sense costs no picture
        require_defined(facts["acquisition"])
        text = json.dumps(facts).casefold()
        assert not any(part in text for part in ("doe", "john", "secret"))


@given(st.binary(max_size=64), st.integers(0, 4000))
def test_a_damaged_header_gives_defined_terms_or_an_error(damage: bytes, position: int) -> None:
    data = bytearray(written(enhanced(Modality="MR", BurnedInAnnotation="NO", ContrastBolusAgent=NAME)))
    start = 132 + position % (len(data) - 132)
    data[start : start + len(damage)] = damage
    for facts, _ in decode(bytes(data), REQUEST):
        require_defined(facts.get("acquisition", {}))
        assert "secret" not in json.dumps(facts).casefold()
