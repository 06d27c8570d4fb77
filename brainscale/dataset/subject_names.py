"""Subjects in sample ids: BIDS entities, and patterns of the user's own."""

import re
from collections.abc import Callable

from brainscale.errors import UsageError
from brainscale.reading.placeholders import find_placeholder
from brainscale.reading.sample_ids import split_folders

SUBJECT = re.compile(r"(?:^|_)sub-([^\W_]+)", re.IGNORECASE)
"""The BIDS entity of the subject in the name of a folder, an archive or a file."""
_BETWEEN = re.compile(
    r"ses-.*|sourcedata|rawdata|anat|func|dwi|perf|"
    r"(images|labels|masks)(t[rs])?|(nifti|dicom|png|jpe?g)s?|training|testing|train|test|val|valid|validation|"
    r"t[12]w?(gd|ce|c|\+c)?|flair|pdw?|mri?|axial|coronal|sagittal",
    re.IGNORECASE,
)
"""Folders above a subject that name no data set: splits, sessions, contrasts, kinds of files, BIDS's own folders."""


def find_bids_subject(sample_id: str, is_class: Callable[[str], bool] = lambda folder: False) -> str | None:
    """Return what identifies the subject that a sample id names by BIDS's `sub-LABEL`, or None.

    It is the label and the folders above the outermost name with one, which tell data sets apart. Folders that only
    sort the files of one data set are left out: classes, splits, sessions, contrasts and BIDS's own.

    Args:
        sample_id: id of the sample.
        is_class: whether a folder's name means a class.
    """
    folders, name = split_folders(sample_id)
    for depth, folder in enumerate([*folders, name]):
        if subject := SUBJECT.search(folder):
            if find_placeholder(subject[1], numbers=False):
                return None
            above = folders[:depth]
            if "derivatives" in above:  # the folder below it names a program
                above = above[: above.index("derivatives")]
            above = [name for name in above if not (_BETWEEN.fullmatch(name) or is_class(name))]
            return "/".join([*above, f"sub-{subject[1].casefold()}"])
    return None


def compile_patient_pattern(text: str) -> re.Pattern[str]:
    """Return the pattern of `--patient-from`.

    Raises:
        UsageError: it is not a regular expression, or has no group.
    """
    try:
        pattern = re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(
            f"--patient-from '{text}' is not a regular expression ({error}): escape special characters with \\"
        ) from None
    if not pattern.groups:
        raise UsageError(f"--patient-from '{text}' has no group: put the part that names the patient in parentheses")
    return pattern


def match_patient(pattern: re.Pattern[str], sample_id: str) -> str | None:
    """Return the patient that a sample id names: the group `patient` of the pattern, or its first group."""
    match = pattern.search(sample_id)
    return (match["patient" if "patient" in pattern.groupindex else 1] or None) if match else None
