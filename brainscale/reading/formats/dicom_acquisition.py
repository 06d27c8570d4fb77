"""A DICOM header → how its frames were taken.

Text is compared with the defined terms of the standard and of the large vendors, and leaves this module only where it
is one of them. Numbers leave it within the limits of what a scanner can do, and rounded. So nothing that somebody
typed into a header comes out, in whatever element. A value that cannot be read counts as not stated: it never costs
the picture.
"""

from collections.abc import Iterator, Mapping, MutableSequence, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pydicom import Dataset, FileDataset

from brainscale.reading.acquisition import Acquisition, name_orientation
from brainscale.reading.formats.dicom_grey import number_of, text_of

_MODALITIES = """
    AR AU BDUS BI BMD CD CFM CR CT CTPROTOCOL DD DF DG DMS DOC DS DX ECG EEG EMG EOG EPS ES FA FS GM HC HD IO IOL IVOCT
    IVUS KER KO LEN LP LS M3D MA MG MR MS NM OAM OCT OP OPM OPR OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG
    RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF ST STAIN TEXTUREMAP
    TG US VA VF XA XC XAPROTOCOL
"""
MODALITIES = frozenset(_MODALITIES.split())
"""Defined terms of Modality (PS3.3 C.7.3.1.1.1), those that were retired among them."""
MODALITY_OF_CLASS = {
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.3": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.6.1": "US",
    "1.2.840.10008.5.1.4.1.1.20": "NM",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
    "1.2.840.10008.5.1.4.1.1.130": "PT",
}
"""SOP class → modality, for objects that do not name theirs."""
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""SOP class of secondary captures; those of their multi-frame kinds begin with it."""

CAPTURE_TOKENS = frozenset({"SCREEN SAVE", "SCREEN_SAVE", "SCREENSAVE", "SCREEN CAPTURE", "SCREENSHOT"})
LOCALIZER_TOKENS = frozenset({"LOCALIZER", "SCOUT", "SURVEY", "TOPOGRAM"})
LOCALIZER_WORDS = ("localizer", "localiser", "scout", "survey", "topogram")
"""What names a localizer in SeriesDescription or ProtocolName, where the classic MR object has no value for it."""
_IMAGE_TYPES = """
    ORIGINAL DERIVED MIXED PRIMARY SECONDARY AXIAL OTHER NONE VOLUME RESAMPLED REFORMATTED SUBTRACTION ADDITION DIVISION
    MULTIPLICATION FILTERED MAXIMUM MINIMUM MEAN STD_DEVIATION COLLAPSE MPR MAX_IP MIN_IP CURVED ANGIO CINE DIFFUSION
    DIXON DYNAMIC FLOW_ENCODED FLUID_ATTENUATED FMRI METABOLITE_MAP MULTIECHO PROTON_DENSITY REALTIME STIR TAGGING
    TEMPERATURE T1 T2 T2_STAR TOF VELOCITY PERFUSION CARDIAC MAGNITUDE PHASE REAL IMAGINARY
"""  # of the standard: CT, MR, enhanced CT and MR
_VENDORS = """
    M P R I SE IR TSE GRE FFE M_FFE M_SE M_IR M_B0 P_FFE R_FFE R_IR R_SE I_FFE B0 B1 FM ND NORM DIS2D DIS3D MOSAIC
    MFSPLIT MIP MINIP DRG DRS FSL CSA CSAPARALLEL ADC ADC_UNSPECIFIED EADC TRACEW FA TENSOR COLFA EXP SUB SUBTRACT CBF
    CBV MTT TTP TMAX ASL SWI SWI_IMAGE PHASE_MAP T1_MAP T2_MAP R2_MAP WATER FAT W F IP OP IN_PHASE OUT_PHASE OPP_PHASE
    FLAIR PROPELLER BLADE COMBINED COMPOSED AVERAGE FILTERED_PHASE PROJECTION REFORMAT POSDISP
"""
_WITH_SPACES = {"PROJECTION IMAGE", "PHASE MAP", "T1 MAP", "T2 MAP", "DERIVED IMAGE"}
IMAGE_TYPES = frozenset([*_IMAGE_TYPES.split(), *_VENDORS.split(), *_WITH_SPACES, *CAPTURE_TOKENS, *LOCALIZER_TOKENS])
"""Values of ImageType that may leave this module."""
SEQUENCES = frozenset({"SE", "IR", "GR", "EP", "RM"})
ECHO_SEQUENCES = {"SPIN": ("SE",), "GRADIENT": ("GR",), "BOTH": ("SE", "GR")}
"""EchoPulseSequence of an enhanced object → ScanningSequence of a classic one."""
MAX_MS = {"repetition_time": 60_000.0, "echo_time": 5_000.0, "inversion_time": 20_000.0}
MAX_TESLA, TESLA_PER_GAUSS = 30.0, 1e-4
DIGITS = 4
"""Decimal places of a number."""


def describe_frames(ds: FileDataset, frames: int) -> Iterator[Acquisition]:
    """Yield how each frame was taken: by its own functional group, the shared one or the data set."""
    shared = _first(ds, "SharedFunctionalGroupsSequence")
    levels = [shared, ds] if shared is not None else [ds]
    common = _describe(ds, levels)
    groups: Sequence[Dataset] = []
    with suppress(Exception):
        groups = list(ds.get("PerFrameFunctionalGroupsSequence") or [])[:frames]
    for group in groups:
        yield _describe_frame(common, group, ds)
    for _ in range(frames - len(groups)):
        yield common


def _describe(ds: FileDataset, levels: Sequence[Dataset]) -> Acquisition:
    """Return what the data set and its shared functional group say of all frames."""
    sop_class = text_of(ds, "SOPClassUID") or text_of(ds.file_meta, "MediaStorageSOPClassUID")
    image_type = _image_type(levels)
    kind = _kind(image_type, sop_class, ds)
    modality = text_of(ds, "Modality").upper()
    return Acquisition(
        modality=modality if modality in MODALITIES else MODALITY_OF_CLASS.get(sop_class),
        image_kind=kind,
        image_type="\\".join(image_type) or None,
        orientation=_orientation(levels),
        burned_in=kind == "secondary_capture" or _flag(ds, "BurnedInAnnotation"),
        scanning_sequence="\\".join(_scanning_sequence(levels)) or None,
        field_strength=_field_strength(ds),
        contrast=_contrast(levels),
        **_times(levels),
    )


def _describe_frame(common: Acquisition, group: Dataset, ds: FileDataset) -> Acquisition:
    """Return how a frame was taken that has a functional group of its own."""
    own: dict[str, Any] = dict(_times([group]))
    own["orientation"] = _orientation([group])
    if image_type := _image_type([group]):
        own["image_type"] = "\\".join(image_type)
        if common.image_kind != "secondary_capture":
            own["image_kind"] = _kind(image_type, "", ds)
            own["burned_in"] = True if own["image_kind"] == "secondary_capture" else None
    return replace(common, **{name: value for name, value in own.items() if value is not None})


def _kind(image_type: Sequence[str], sop_class: str, ds: Dataset) -> str | None:
    """Return original, derived, localizer or secondary_capture, the last of these that applies."""
    is_capture = sop_class == SECONDARY_CAPTURE or sop_class.startswith(SECONDARY_CAPTURE + ".")
    if is_capture or CAPTURE_TOKENS.intersection(image_type):
        return "secondary_capture"
    names = " ".join(text_of(ds, keyword) for keyword in ("SeriesDescription", "ProtocolName")).casefold()
    if LOCALIZER_TOKENS.intersection(image_type) or any(word in names for word in LOCALIZER_WORDS):
        return "localizer"
    return next((kind for kind in ("derived", "original") if kind.upper() in image_type), None)


def _image_type(levels: Sequence[Dataset]) -> list[str]:
    """Return the known values of the frame's type, where an enhanced object has one, else of the image's."""
    for level in levels:
        for macro in ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence"):
            item = _first(level, macro)
            if item is not None and (tokens := _tokens(item, "FrameType", IMAGE_TYPES)):
                return tokens
        if tokens := _tokens(level, "ImageType", IMAGE_TYPES):
            return tokens
    return []


def _orientation(levels: Sequence[Dataset]) -> str | None:
    for level in levels:
        with suppress(Exception):  # values are converted when asked for, and may hold anything
            item = _first(level, "PlaneOrientationSequence")
            directions = [float(value) for value in (level if item is None else item).ImageOrientationPatient]
            if len(directions) == 6 and (name := name_orientation(directions[:3], directions[3:])):
                return name
    return None


def _scanning_sequence(levels: Sequence[Dataset]) -> list[str]:
    """Return the values of a classic object, or what an enhanced object says in other words."""
    for level in levels:
        if tokens := _tokens(level, "ScanningSequence", SEQUENCES):
            return tokens
    ds = levels[-1]
    tokens = list(ECHO_SEQUENCES.get(text_of(ds, "EchoPulseSequence").upper(), ()))
    tokens += ["IR"] * (_flag(ds, "InversionRecovery") is True) + ["EP"] * (
        _flag(ds, "EchoPlanarPulseSequence") is True
    )
    return tokens


def _times(levels: Sequence[Dataset]) -> Mapping[str, float | None]:
    """Return repetition, echo and inversion time, each of the first level that states it."""
    places = {
        "repetition_time": ("MRTimingAndRelatedParametersSequence", "RepetitionTime", "RepetitionTime"),
        "echo_time": ("MREchoSequence", "EffectiveEchoTime", "EchoTime"),
        "inversion_time": ("MRModifierSequence", "InversionTimes", "InversionTime"),
    }
    times: dict[str, float | None] = {}
    for name, (macro, keyword_in_macro, keyword) in places.items():
        values = (
            number_of(level, keyword) if (item := _first(level, macro)) is None else number_of(item, keyword_in_macro)
            for level in levels
        )
        times[name] = next((round(v, DIGITS) for v in values if v is not None and 0 <= v <= MAX_MS[name]), None)
    return times


def _field_strength(ds: Dataset) -> float | None:
    value = number_of(ds, "MagneticFieldStrength")
    if value is not None and value > MAX_TESLA:  # in gauss
        value *= TESLA_PER_GAUSS
    return round(value, DIGITS) if value is not None and 0 < value <= MAX_TESLA else None


def _contrast(levels: Sequence[Dataset]) -> bool | None:
    """Return whether a contrast agent was given; its name may be anything, and stays here."""
    for level in levels:
        item = _first(level, "ContrastBolusUsageSequence")
        if item is not None and (given := _flag(item, "ContrastBolusAgentAdministered")) is not None:
            return given
    ds = levels[-1]
    if agent := text_of(ds, "ContrastBolusAgent").casefold():
        return agent not in ("no", "none", "n", "without", "0")
    return True if (number_of(ds, "ContrastBolusVolume") or 0) > 0 else None


def _flag(ds: Dataset, keyword: str) -> bool | None:
    """Return whether an element says YES; None if it says neither YES nor NO."""
    return {"YES": True, "NO": False}.get(text_of(ds, keyword).upper())


def _tokens(ds: Dataset, keyword: str, known: frozenset[str]) -> list[str]:
    """Return the known values of an element in their order, each once."""
    try:
        value = ds.get(keyword)
        values = value if isinstance(value, MutableSequence) else str(value or "").split("\\")
        texts = [str(text).strip(" \0").upper() for text in values]
    except Exception:  # noqa: BLE001 (as above)
        return []
    return list(dict.fromkeys(text for text in texts if text in known))


def _first(ds: Dataset, keyword: str) -> Dataset | None:
    """Return the first item of a sequence, if there is one that can be read."""
    with suppress(Exception):
        item = (ds.get(keyword) or [None])[0]
        return item if isinstance(item, Dataset) else None
    return None
