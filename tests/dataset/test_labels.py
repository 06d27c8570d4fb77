"""Labels from folder names and from label files."""

import math
import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainscale.config.data_sections import DataConfig
from brainscale.config.files import load_config
from brainscale.dataset.label_file import DEFAULT_COLUMNS, LabelColumns, LabelFile, read_label_file
from brainscale.dataset.labels import choose_folder_labels, describe_unclear_labels, find_folder_labels
from brainscale.dataset.manifest_rows import hide_paths
from brainscale.errors import ManifestError, UsageError
from brainscale.reading.keys import PatientKey
from brainscale.schema import MANIFEST

DATA = DataConfig()
IDS = [f"p/{n}.png" for n in range(4)]


def read(tmp_path: Path, text: str | bytes, **columns: str) -> LabelFile:
    path = tmp_path / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_label_file(str(path), DATA, LabelColumns(**columns) if columns else DEFAULT_COLUMNS)


def refusal(tmp_path: Path, text: str | bytes, **columns: str) -> str:
    with pytest.raises(ManifestError) as error:
        read(tmp_path, text, **columns)
    assert "\n" not in str(error.value)
    return str(error.value)


def labels(file: LabelFile) -> list[str | None]:
    assert file.labels is not None
    return [None if row is None else file.labels[row] for row in file.rows(IDS)]


def unclear(rows: list[tuple[str, str | None]], code: str | None = None) -> list[str]:
    full = [
        dict.fromkeys(MANIFEST.names) | {"sample_id": sample_id, "uri": "x", "label": label, "error_code": code}
        for sample_id, label in rows
    ]
    return list(describe_unclear_labels(pa.Table.from_pylist(full, schema=MANIFEST), DATA))


@pytest.mark.parametrize(
    ("sample_id", "label"),
    [
        ("glioma/No.12/0.png", "tumour"),
        ("glioma/No. 7/0.png", "tumour"),
        ("meningioma/NO.3_2021/0.png", "tumour"),
        ("glioma/No.5.zip!a.png", "tumour"),
        ("normal/No.4/0.png", "no_tumour"),
        ("unsorted/No.9/0.png", None),
        ("yes/normal.contrast/0.png", "tumour"),
        ("yes/no.d/0.png", "tumour"),
        ("yes/no.zip/0.png", "tumour"),  # a folder, and no archive
        ("yes/no.zip!0.png", "no_tumour"),
        ("yes/no.tar.GZ!sub/0.png", "no_tumour"),
        ("set.zip!yes/0.png", "tumour"),
        ("set.zip!in/no.tgz!0.png", "no_tumour"),
        ("a.zip!no.txt!0.png", None),
        ("yes~2/0.png", "tumour"),
        ("yes.zip~3!0.png", "tumour"),
        ("no.png", None),
        ("yes.zip", None),
        ("yes/volume.nii.gz#12", "tumour"),
        ("four/Training/glioma_tumor/0.png", "tumour"),
        ("four/Testing/no_tumor/0.png", "no_tumour"),
        ("preet/Brain Tumor/0.png", "tumour"),
        ("preet/Healthy/0.png", "no_tumour"),
        ("nick/Training/notumor/0.png", "no_tumour"),
        ("dash/glioma-tumor/0.png", "tumour"),
        ("space/No Tumor/0.png", "no_tumour"),
        ("plural/tumors/0.png", "tumour"),
        ("br35h/pred/0.png", None),
    ],
)
def test_the_nearest_folder_named_after_a_class_labels_a_sample(sample_id: str, label: str | None) -> None:
    assert choose_folder_labels([sample_id], DATA) == [label]


def test_all_four_folders_of_the_kaggle_set_are_classes() -> None:
    folders = ("glioma_tumor", "meningioma_tumor", "pituitary_tumor", "no_tumor")
    ids = [f"{part}/{folder}/{n}.png" for part in ("Training", "Testing") for folder in folders for n in range(3)]
    assert choose_folder_labels(ids, DATA).count("tumour") == 18
    assert choose_folder_labels(ids, DATA).count("no_tumour") == 6


@pytest.mark.parametrize(
    "folder",
    ["Training/glioma", "Testing/glioma_tumor", "x/Glioma Tumors", "glioma-tumor", "Brain Tumor/Training/glioma"],
)
def test_the_four_class_configuration_tells_the_kinds_apart(folder: str) -> None:
    data = load_config("four_classes").data
    assert list(data.classes) == ["no_tumour", "glioma", "meningioma", "pituitary"]
    kinds = ["glioma", "meningioma", "pituitary"]
    ids = [f"{re.sub('glioma', kind, folder, flags=re.IGNORECASE)}/0.png" for kind in kinds]
    assert choose_folder_labels(ids, data) == kinds
    healthy = ["Testing/notumor/0.png", "Training/no_tumor/0.png", "no tumors/0.png", "Healthy/0.png"]
    assert choose_folder_labels([*healthy, "yes/0.png", "tumor/0.png"], data) == ["no_tumour"] * 4 + [None] * 2


@given(st.text(alphabet="no. -_0123456789", min_size=1, max_size=8), st.sampled_from(["", ".d", ".7", ".contrast"]))
def test_a_suffix_makes_no_folder_a_class(name: str, suffix: str) -> None:
    (found,) = find_folder_labels([f"glioma/{name}{suffix}/0.png"], DATA)
    assert found[0] == (DATA.label(name + suffix) or "tumour")


def test_samples_without_a_clear_label_are_counted_and_the_first_is_named() -> None:
    lines = unclear([("a/0.png", None), ("b/1.png", None), ("glioma/no/2.png", "no_tumour"), ("no/3.png", "no_tumour")])
    assert len(lines) == 2
    assert "2 of 4 sample(s) have no label, the first of them 'a/0.png'" in lines[0]
    assert "1 of 4 sample(s) are in folders of different classes, the first of them 'glioma/no/2.png'" in lines[1]
    assert "(no_tumour and tumour)" in lines[1]
    assert unclear([("a/0.png", None)], code="corrupt") == []
    assert unclear([("glioma/no/2.png", "tumour")]) == []  # a label file said so
    assert unclear([("glioma/yes/2.png", "tumour")]) == []


def test_a_conflict_is_refused_and_the_same_row_twice_is_not(tmp_path: Path) -> None:
    text = refusal(tmp_path, "sample_id,label\np/0.png,yes\np/1.png,no\np/0.png,no\n")
    assert "lists 'p/0.png' more than once, with different values of 'label' (tumour and no_tumour)" in text
    assert "'./p/0.png'" not in refusal(tmp_path, "sample_id,label\np/0.png,yes\n./p\\0.png,no\n")
    same = read(tmp_path, "sample_id,label\np/0.png,yes\np/1.png,no\np/0.png,tumour\n")
    assert labels(same) == ["tumour", "no_tumour", None, None]
    secret = refusal(tmp_path, "sample_id,label,patient\np/0.png,yes,Doe\np/0.png,yes,Roe\n")
    assert "'patient'" in secret
    assert "Doe" not in secret
    assert "'site'" in refusal(tmp_path, "sample_id,label,site\np/0.png,yes,A\np/0.png,yes,B\n")


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffsample_id,label\r\np/0.png,yes\r\np/1.png,no\r\n",
        "sample_id;label\np/0.png;yes\np/1.png;no\n",
        "sample_id\tlabel\np/0.png\tyes\np/1.png\tno\n",
        "sample_id, label\np/0.png, yes\np/1.png,no \n",
        "sample_id,label\np\\0.png,yes\n./p/1.png,no\n",
        '"sample_id","label"\n"p/0.png","yes"\n"p/1.png","no"\n',
        ",sample_id,label\n0,p/0.png,yes\n1,p/1.png,no\n",
        "File Name,label\np/0.png,yes\np/1.png,no\n",
    ],
)
def test_label_files_as_programs_write_them(tmp_path: Path, text: str) -> None:
    file = read(tmp_path, text)
    assert labels(file) == ["tumour", "no_tumour", None, None]
    assert file.extra.num_columns == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample_id,label\np/0.PNG,yes\n", "labels 'p/0.PNG', which is not in the sources"),
        ("sample_id,label\np/0.png,cat\n", "unknown label 'cat' of 'p/0.png' in "),
        ("name,label\np/0.png,yes\n", "has no column 'sample_id' (its columns are name, label)"),
        (
            "path,image,label\np/0.png,p/0.png,yes\n",
            "has no column 'sample_id', but path and image: name one with --id-",
        ),
        ("sample_id,diagnosis\np/0.png,yes\n", "has no column 'label' (its columns are sample_id, diagnosis)"),
        ("sample_id,label,split\np/0.png,yes,x\n", "has a column 'split', and so has every manifest"),
        ("sample_id,label,label\np/0.png,yes,no\n", "has two columns 'label'"),
        ("sample_id,label\n,yes\n", "names no sample in row 1"),
        ("", "cannot be read as CSV"),
        ("sample_id,label\np/0.png,yes\n".encode("utf-16"), "cannot be read as CSV"),
        ("sample_id,label\np/0.png,yes\nGröße.png,no\n".encode("latin-1"), "cannot be read as CSV"),
    ],
)
def test_what_is_wrong_with_a_label_file_is_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ManifestError) as error:
        read(tmp_path, text).rows(IDS)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_label_is_no_label(tmp_path: Path) -> None:
    assert labels(read(tmp_path, "sample_id,label\np/0.png,\np/1.png,NA\np/2.png,yes\n")) == [
        None,
        None,
        "tumour",
        None,
    ]


def test_columns_are_chosen_by_name(tmp_path: Path) -> None:
    text = "scan_file,diagnosis,mrn,label_source,site\np/0.png,yes,007,x,A\np/1.png,no,7,y,B\n"
    file = read(tmp_path, text, id="scan_file", label="diagnosis", patient="mrn")
    assert labels(file) == ["tumour", "no_tumour", None, None]
    assert (file.patients, file.patient_column_chosen) == (["007", "7"], True)
    assert file.extra.column_names == ["label_source", "site"]
    assert "has no column 'nosuch': its columns are scan_file, diagnosis," in refusal(tmp_path, text, label="nosuch")
    with pytest.raises(UsageError, match="--patient-column names a column of a label file: add --labels FILE.csv"):
        LabelColumns(patient="x").require_file("folder")


def test_other_columns_keep_their_types_and_identifying_ones_stay_out(tmp_path: Path) -> None:
    text = "sample_id,label,subject_id,site,distance,pixels,Name\np/0.png,yes,s1,A,0.5,7,Doe\np/2.png,no,s2,,NA,,Roe\n"
    file = read(tmp_path, text)
    assert file.patients == ["s1", "s2"]
    assert file.notices == [f"{file.path}: left out column(s) that may identify patients: Name."]
    columns = file.extra_columns(file.rows(IDS))
    assert {name: str(values.type) for name, values in columns.items()} == {
        "site": "string",
        "distance": "double",
        "pixels": "int64",
    }
    assert columns["site"].to_pylist() == ["A", None, None, None]
    assert columns["distance"].to_pylist() == [0.5, None, None, None]
    assert columns["pixels"].to_pylist() == [7, None, None, None]


def test_columns_that_headers_fill_are_kept_under_another_name(tmp_path: Path) -> None:
    file = read(tmp_path, "sample_id,label,orientation,site\np/0.png,yes,axial,A\n")
    assert file.extra.column_names == ["given_orientation", "site"]
    assert file.notices == [
        f"{file.path}: renamed column(s) that manifests fill from the headers of files: "
        "orientation → given_orientation."
    ]


def test_a_column_of_patients_is_found_in_capitals_and_never_copied(tmp_path: Path) -> None:
    file = read(tmp_path, "sample_id,label,Patient,PID,Patient.Number,Surname,E-Mail\np/0.png,yes,s1,4,4,Doe,a@b\n")
    assert (file.patients, file.extra.column_names) == (["s1"], [])
    assert "may identify patients: PID, Patient.Number, Surname, E-Mail." in file.notices[0]


def test_a_comment_in_another_encoding_is_left_out(tmp_path: Path) -> None:
    file = read(tmp_path, "sample_id,label,comment\np/0.png,yes,Größe\n".encode("latin-1"))
    assert (labels(file)[0], file.extra.num_columns) == ("tumour", 0)
    assert "not in UTF-8: comment" in file.notices[0]


def test_hashed_paths_keep_the_columns_of_a_label_file() -> None:
    rows = [dict.fromkeys(MANIFEST.names) | {"sample_id": name, "uri": name} for name in IDS]
    table = pa.Table.from_pylist(rows, schema=MANIFEST).append_column("site", pa.array(list("ABCD")))
    hidden = hide_paths(table, PatientKey(secret=b"k" * 16, random=False))
    assert hidden.column_names == [*MANIFEST.names, "site"]
    assert sorted(hidden["site"].to_pylist()) == list("ABCD")
    assert not set(hidden["sample_id"].to_pylist()) & set(IDS)


def test_a_file_of_patients_leaves_labels_to_folders(tmp_path: Path) -> None:
    file = read(tmp_path, "sample_id,patient\np/0.png,s1\n")
    assert file.labels is None
    assert "labels come from folder names" in file.notices[0]


@given(st.permutations(range(4)), st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=4, max_size=4))
def test_each_sample_gets_the_values_of_its_own_row(order: list[int], values: list[float]) -> None:
    file = LabelFile(
        path="f.csv",
        row_of={IDS[n]: row for row, n in enumerate(order)},
        labels=None,
        patients=None,
        patient_column_chosen=False,
        extra=pa.table({"x": [values[n] for n in order]}),
        notices=(),
    )
    found = file.extra_columns(file.rows(IDS))["x"].to_pylist()
    assert all(math.isclose(one, other) for one, other in zip(found, values, strict=True))
