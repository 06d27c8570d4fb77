"""The pages of near duplicates and of doubtful labels and images."""

import asyncio
import base64
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from brainscale.config.sections import Config
from brainscale.dataset.columns import replace_column
from brainscale.dataset.groups import assign_groups
from brainscale.dataset.near_duplicates import find_near_duplicates
from brainscale.dataset.pages import audit as audit_page
from brainscale.dataset.pages import document, pairs, unusual
from brainscale.dataset.pages.predictions import find_wrong, read_predictions
from brainscale.dataset.pages.request import PageRequest
from brainscale.dataset.phantoms import draw_phantom
from brainscale.errors import BrainscaleError, OutputError, UsageError
from brainscale.storage.remote import ObjectStore, join_address
from brainscale.storage.tables import write_table
from tests.support import cdp, tables
from tests.support.indexing import index_folder
from tests.support.runs import Invoke
from tests.support.stores import make_bucket, place, s3_server

CLASSES = ["no_tumour", "tumour"]
EVIL = "<script>alert(1)<img src=x onerror=alert(2)>&\"'\u2028.png"


class Read(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += " " if tag in ("td", "br", "p") else ""

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def save(image: np.ndarray, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return path


def draw_abdomen(seed: int, size: int = 160) -> np.ndarray:
    """A body in cross-section: wide, without a skull, with large organs and a bright spine."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]

    def inside(cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
        return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1

    image = np.zeros((size, size))
    image[inside(0, 0, 0.95, 0.7)] = 60
    image[inside(0, 0, 0.88, 0.62)] = 30
    image[inside(-0.4, -0.05, 0.42, 0.45)] = 170
    image[inside(0.5, 0.1, 0.25, 0.3)] = 160
    image[inside(0, 0.42, 0.12, 0.14)] = 250
    return np.asarray(np.clip(image + draw.normal(0, 4, image.shape), 0, 255), np.uint8)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 phantoms in yes/ and no/, each another head."""
    folder = tmp_path_factory.mktemp("heads")
    for i in range(48):
        save(draw_phantom(5, i, i % 2 == 0, 128), folder / ("no", "yes")[i % 2 == 0] / f"{i:02d}.png")
    return folder


@pytest.fixture
def folder(heads: Path, tmp_path: Path) -> Path:
    """The phantoms in a folder of their own."""
    return Path(shutil.copytree(heads, tmp_path / "set"))


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Three heads and copies of them: with the other label, flipped, with a margin, and byte for byte."""
    folder = tmp_path / "set"
    first, second, third = (draw_phantom(7, i, i == 0, 160) for i in range(3))
    save(first, folder / "yes" / "a.png")
    Image.fromarray(first).resize((120, 120)).save(save(first, folder / "no" / "a again.jpg"), quality=85)
    save(second, folder / "no" / "b.png")
    save(second[:, ::-1].copy(), folder / "no" / f"b flipped {EVIL}")
    save(third, folder / "no" / "c.png")
    save(np.pad(third, ((10, 20), (60, 70))), folder / "no" / "c margin.png")
    shutil.copy(folder / "no" / "c.png", folder / "no" / "c.same.png")
    return folder


def write_pairs(manifest: pa.Table, path: Path) -> Read:
    pairs.write_pairs_page(manifest, find_near_duplicates(manifest), str(path), Config(), "brainscale index")
    return Read(path.read_text(encoding="utf-8"))


def write_audit(manifest: pa.Table, path: Path, predictions: pa.Table | None = None) -> Read:
    near = find_near_duplicates(manifest)
    audit_page.write_audit_page(manifest, near, str(path), Config(), "brainscale index", predictions)
    return Read(path.read_text(encoding="utf-8"))


def find(manifest: pa.Table, predictions: pa.Table | None = None) -> audit_page.Findings:
    return audit_page.audit(manifest, find_near_duplicates(manifest), CLASSES, predictions)


def names(manifest: pa.Table, rows: list[int]) -> list[str]:
    ids = manifest["sample_id"].to_pylist()
    return [ids[row] for row in rows]


def picture_size(picture: dict[str, str | None]) -> tuple[int, int]:
    kind, data = str(picture["src"]).split(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return image.size


def test_pairs_with_two_labels_come_first_and_identical_files_are_counted(copied: Path, tmp_path: Path) -> None:
    read = write_pairs(index_folder(copied), tmp_path / "p.html")
    labels = [a for tag, a in read.tags if tag == "li"]
    assert [a.get("class") for a in labels] == ["conflict", None, None]
    assert "Identical files" not in read.words
    shown = [str(a["alt"]) for a in read.all("img")]
    assert sorted(shown[:2]) == ["no/a again.jpg", "yes/a.png"]
    assert {"no/b.png", "no/c margin.png"} < set(shown[2:])
    assert "no/c.same.png" not in shown
    assert "pairs of near duplicates with two labels 1 other pairs of near duplicates 2" in read.words
    assert (
        "pairs of slices of one series or file, not shown 0 identical copies of other files, not shown 1" in read.words
    )
    similarities = [float(text) for text in re.findall(r"Similarity (0\.\d+|1\.0+)\.", read.words)]
    assert len(similarities) == 3
    assert similarities[1:] == sorted(similarities[1:])
    assert read.words.count("The first is flipped left to right.") == 1
    assert read.words.count("Same orientation.") == 2


def test_pictures_keep_their_aspect(copied: Path, tmp_path: Path) -> None:
    read = write_pairs(index_folder(copied), tmp_path / "p.html")
    sizes = {str(a["alt"]): picture_size(a) for a in read.all("img")}
    assert sizes["no/c margin.png"] == (224, 147)  # of 290 × 190
    assert sizes["yes/a.png"] == (224, 224)


def test_names_are_escaped_and_the_page_needs_nothing_else(copied: Path, tmp_path: Path) -> None:
    manifest = index_folder(copied)
    for read, path in (
        (write_pairs(manifest, tmp_path / "p.html"), tmp_path / "p.html"),
        (write_audit(manifest, tmp_path / "a.html"), tmp_path / "a.html"),
    ):
        text = path.read_text(encoding="utf-8")
        assert not {"script", "iframe", "object", "form", "base"} & {tag for tag, _ in read.tags}
        assert not [name for _, a in read.tags for name in a if name == "style" or name.startswith("on")]
        addresses = [str(a[k]) for _, a in read.tags for k in ("src", "href") if k in a]
        assert all(address.startswith(("data:", "#")) for address in addresses)
        assert str(tmp_path) not in text
        assert not re.search(r"https?://", text)
        (policy,) = (a["content"] for a in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
        assert "default-src 'none'" in str(policy)
        assert "unsafe" not in str(policy)
    assert f"b flipped {EVIL}" in Read((tmp_path / "p.html").read_text(encoding="utf-8")).text


def test_slices_of_one_series_are_counted_only(copied: Path, tmp_path: Path) -> None:
    manifest = index_folder(copied)
    series = ["s" if "/b" in i else None for i in manifest["sample_id"].to_pylist()]
    manifest = replace_column(manifest, "scan", pa.array(series))
    read = write_pairs(manifest, tmp_path / "p.html")
    assert "slices of one series or file, not shown 1" in read.words
    assert "no/b.png" not in [a["alt"] for a in read.all("img")]


def test_pairs_of_one_patient_come_last(copied: Path, tmp_path: Path) -> None:
    manifest = index_folder(copied)  # the margin's pair is less similar than the flipped one
    for margin, flipped in (("other", "same"), ("same", "other"), ("same", "same")):
        patients = [
            margin if "c margin" in name else flipped if "b flipped" in name else "same" for name in names_of(manifest)
        ]
        read = write_pairs(replace_column(manifest, "patient", pa.array(patients)), tmp_path / "p.html")
        said = {"same": "same patient", "other": "two patients"}
        rows = [("Same orientation", said[margin]), ("The first is flipped left to right", said[flipped])]
        expected = rows[::-1] if flipped == "other" else rows
        found = re.findall(r"(Same orientation|The first is flipped left to right); (\w+ patients?)", read.words)
        assert found == [("Same orientation", "same patient"), *expected]


def test_a_page_says_how_many_pairs_it_leaves_out(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "MAX_PAIRS", 1)
    read = write_pairs(index_folder(copied), tmp_path / "p.html")
    assert len(read.all("img")) == 2
    assert "This page shows the first 1 pairs. 2 more pairs are not shown." in read.words
    assert read.all("li")[0]["class"] == "conflict"


def test_a_sample_that_cannot_be_read_again_says_so(copied: Path, tmp_path: Path) -> None:
    manifest = index_folder(copied)
    (copied / "no" / "b.png").unlink()
    read = write_pairs(manifest, tmp_path / "p.html")
    assert len(read.all("img")) == 5
    assert "cannot be read again: gone no/b.png label no_tumour" in read.words


def test_every_orientation_has_its_name() -> None:
    image = np.zeros((4, 4), np.uint8)
    image[0, 1] = 1
    expected = {
        "as stored": image,
        "flipped left to right": np.fliplr(image),
        "flipped upside down": np.flipud(image),
        "turned by 180°": np.rot90(image, 2),
        "turned by 90° clockwise": np.rot90(image, -1),
        "turned by 90° anticlockwise": np.rot90(image),
        "flipped along the diagonal": image.T,
        "flipped along the other diagonal": np.rot90(image, 2).T,
    }
    assert set(pairs.TURNS) == set(expected)
    for orientation, name in enumerate(pairs.TURNS):
        assert np.array_equal(pairs.orient(image, orientation), expected[name]), name


def test_duplicates_with_two_labels(copied: Path, tmp_path: Path) -> None:
    shutil.copy(copied / "no" / "c.png", copied / "yes" / "c.png")
    for label in ("yes", "no"):
        save(np.full((80, 80), 7, np.uint8), copied / label / "grey.png")  # equal bytes, and no signature
    manifest = index_folder(copied)
    found = find(manifest).two_labels
    listed = [frozenset(names(manifest, [a, b])) for a, b in zip(found.first, found.second, strict=True)]
    assert len(listed) == len(set(listed))
    same = [{"no/c.png", "yes/c.png"}, {"no/grey.png", "yes/grey.png"}]
    assert all(pair in listed[:3] for pair in same)  # byte-identical ones first
    assert frozenset({"no/a again.jpg", "yes/a.png"}) in listed[2:]
    ids = dict(zip(manifest["sample_id"].to_pylist(), manifest["label"].to_pylist(), strict=True))
    assert all({ids[name] for name in pair} == set(CLASSES) for pair in listed)
    assert write_audit(manifest, tmp_path / "a.html").words.count("Two labels. Identical files.") == 2


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_is_no_head_is_the_first_of_the_unusual(folder: Path, seed: int) -> None:
    save(draw_abdomen(seed), folder / "yes" / "abdomen.png")
    noise = np.random.default_rng(seed).integers(0, 256, (128, 128), np.uint8)
    save(noise, folder / "no" / "noise.png")
    manifest = index_folder(folder)
    ranked = unusual.rank_unusual(manifest)
    assert set(names(manifest, ranked.rows[:2].tolist())) == {"yes/abdomen.png", "no/noise.png"}
    assert (np.diff(ranked.likeness) >= 0).all()
    assert ranked.likeness[1] < ranked.likeness[2] - 0.1  # well apart from the heads


def test_a_large_lesion_on_one_side_is_less_unusual_than_another_body_part(folder: Path) -> None:
    head = draw_phantom(5, 100, True, 128).astype(np.float64)
    y, x = np.mgrid[:128, :128]
    head[np.hypot(x - 45, y - 60) < 18] = 250
    save(head.astype(np.uint8), folder / "yes" / "lesion.png")
    save(draw_abdomen(4), folder / "yes" / "abdomen.png")
    manifest = index_folder(folder)
    first, *others = names(manifest, unusual.rank_unusual(manifest).rows.tolist())
    assert first == "yes/abdomen.png"
    assert "yes/lesion.png" in others


def test_unusual_images_are_not_compared_with_their_own_group_and_are_listed_once(folder: Path) -> None:
    abdomen = draw_abdomen(1)
    for i in range(6):  # as many copies as are averaged: if they counted, it would be usual
        save(abdomen, folder / "yes" / f"abdomen {i}.png", compress_level=i)
    manifest = index_folder(folder)
    ranked = names(manifest, unusual.rank_unusual(manifest).rows.tolist())
    assert ranked[0].startswith("yes/abdomen")
    assert len([name for name in ranked if "abdomen" in name]) == 1


def test_the_order_of_the_files_and_the_size_of_a_chunk_do_not_matter(
    heads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = index_folder(heads)
    expected = unusual.rank_unusual(manifest)
    mixed = np.random.default_rng(0).permutation(len(manifest))
    monkeypatch.setattr(unusual, "_CHUNK", 7)
    other = unusual.rank_unusual(manifest.take(pa.array(mixed)))
    assert mixed[other.rows].tolist() == expected.rows.tolist()
    assert other.likeness == pytest.approx(expected.likeness, abs=1e-5)


def test_a_large_set_is_compared_with_some_of_its_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(draw_abdomen(1), folder / "yes" / "abdomen.png")
    monkeypatch.setattr(unusual, "REFERENCES", 20)
    manifest = index_folder(folder)
    assert names(manifest, unusual.rank_unusual(manifest).rows[:1].tolist()) == ["yes/abdomen.png"]


def test_too_few_images_are_not_compared(copied: Path, tmp_path: Path, heads: Path) -> None:
    read = write_audit(index_folder(copied), tmp_path / "a.html")
    assert "The images were not compared: there are too few of different groups" in read.words
    manifest = index_folder(heads)
    one_patient = assign_groups(replace_column(manifest, "patient", pa.array(["p"] * len(manifest))))
    assert not len(unusual.rank_unusual(one_patient).rows)
    assert not len(unusual.rank_unusual(manifest.slice(0, 0)).rows)


def test_empty_images_odd_sizes_and_large_groups(folder: Path, tmp_path: Path) -> None:
    save(np.full((80, 80), 3, np.uint8), folder / "yes" / "flat.png")
    save(np.pad(draw_phantom(5, 60, True, 128), ((0, 0), (60, 60))), folder / "yes" / "wide.png")
    save(draw_phantom(5, 61, True, 40), folder / "yes" / "tiny.png")
    manifest = index_folder(folder)
    of_patient = dict.fromkeys([f"no/{i:02d}.png" for i in range(1, 20, 2)], "p") | dict.fromkeys(
        ["no/21.png", "no/23.png"], "q"
    )
    patients = [of_patient.get(name) for name in names_of(manifest)]
    manifest = assign_groups(replace_column(manifest, "patient", pa.array(patients)))
    empty = [name in ("no/41.png", "yes/40.png") for name in names_of(manifest)]
    manifest = replace_column(manifest, "empty", pa.array(empty))
    found = find(manifest)
    assert names(manifest, found.empty) == ["yes/flat.png", "no/41.png", "yes/40.png"]
    assert names(manifest, found.odd) == ["yes/wide.png", "yes/tiny.png"]
    (group,) = found.groups
    assert len(group) == patients.count("p") == 10
    read = write_audit(manifest, tmp_path / "a.html")
    assert "Nearly empty images: 3" in read.words
    assert "yes/flat.png label tumour, 80 × 80 px no contrast" in read.words
    assert "no/41.png label no_tumour, 128 × 128 px slice marked empty" in read.words
    assert "aspect 1.94 : 1" in read.words
    assert "40 × 40 px aspect 1.00 : 1, tiny" in read.words
    assert "Large groups: 1" in read.words
    assert "no_tumour 10; 1 known patient(s), 0 series, 10 different file(s)." in read.words


def names_of(manifest: pa.Table) -> list[str]:
    ids: list[str] = manifest["sample_id"].to_pylist()
    return ids


def test_rows_in_error_are_in_no_section(folder: Path, tmp_path: Path) -> None:
    (folder / "yes" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    read = write_audit(index_folder(folder), tmp_path / "a.html")
    assert "among 48 samples" in read.words
    assert "broken" not in read.text


def test_wrong_predictions_by_content_the_most_confident_first() -> None:
    manifest = tables.manifest([0, 0, 1, 1, 1, None, 0], label=["no_tumour"] * 2 + ["tumour"] * 3 + [None, "no_tumour"])
    scores = np.array([0.1, 0.7, 0.9, 0.05, 0.25, 0.9, 0.96])
    predicted = tables.predictions(manifest, scores, threshold=0.2)
    predicted = replace_column(predicted, "sample_id", pa.array([f"elsewhere/{i}" for i in range(7)]))
    cases, count = find_wrong(manifest, predicted, CLASSES)
    assert [case.row for case in cases] == [6, 3, 1]  # 4 is above the threshold, 5 has no label
    assert [round(case.probability, 3) for case in cases] == [0.96, 0.95, 0.7]
    assert [case.prediction for case in cases] == ["tumour", "no_tumour", "tumour"]
    assert count == 6


def test_a_sample_that_is_sometimes_classified_correctly_counts_less() -> None:
    manifest = tables.manifest([0, 0])
    repeats = [tables.predictions(manifest, np.array(scores)) for scores in ([0.9, 0.8], [0.1, 0.8])]
    cases, _ = find_wrong(manifest, pa.concat_tables(repeats), CLASSES)
    assert [(case.row, case.wrong, case.predictions) for case in cases] == [(1, 2, 2), (0, 1, 2)]


def test_several_classes() -> None:
    manifest = tables.manifest([0, 1], label=["no_tumour", "glioma"])
    predicted = tables.predictions(manifest, np.array([0.6, 0.9]))
    predicted = replace_column(predicted, "prediction", pa.array(["meningioma", "glioma"]))
    predicted = replace_column(predicted, "probabilities", pa.array([[0.1, 0.2, 0.7], [0.1, 0.8, 0.1]]))
    cases, count = find_wrong(manifest, predicted, ["no_tumour", "glioma", "meningioma"])
    assert [(case.row, case.prediction, round(case.probability, 3)) for case in cases] == [(0, "meningioma", 0.7)]
    assert count == 2


def test_identical_files_are_one_sample() -> None:
    manifest = tables.manifest([0, 0], sha256=["a" * 64] * 2)
    predicted = tables.predictions(manifest.slice(0, 1), np.array([0.9]))
    cases, count = find_wrong(manifest, predicted, CLASSES)
    assert ([case.row for case in cases], count) == ([0], 1)


@pytest.mark.parametrize(
    "places",
    [
        ["."],
        ["evaluation/test", "evaluation/outside-all"],
        ["repeat-1/fold-1/evaluation/test", "repeat-1/fold-2/evaluation/test"],
    ],
)
def test_predictions_of_an_evaluation_a_run_or_a_cross_validation(tmp_path: Path, places: list[str]) -> None:
    predicted = tables.predictions(tables.manifest([0, 1], error_code=[None, "corrupt"]), np.array([0.5, 0.5]))
    for name in places:
        write_table(predicted, tmp_path / name / "predictions.parquet", "predictions")
    assert len(read_predictions(str(tmp_path))) == len(places)  # a row in error has no prediction


def test_the_most_confidently_wrong_are_shown(folder: Path, tmp_path: Path) -> None:
    manifest = index_folder(folder)
    scores = np.where(np.array(manifest["label"].to_pylist()) == "tumour", 0.9, 0.1)
    scores[3] = 0.97
    read = write_audit(manifest, tmp_path / "a.html", tables.predictions(manifest, scores))
    assert "Predictions that differ from the label: 1 of 48 samples" in read.words
    assert "predicted tumour with probability 0.970" in read.words
    assert "Predictions that differ" not in write_audit(manifest, tmp_path / "a.html").words


def test_only_its_own_pages_are_replaced(copied: Path, tmp_path: Path) -> None:
    page, manifest = tmp_path / "p.html", index_folder(copied)
    request = PageRequest(pairs=str(page), audit=str(tmp_path / "a.html"))
    for _ in range(2):
        assert request.check_files() is None
        request.write(manifest, Config(), None)
    page.write_text("<html>mine</html>")
    with pytest.raises(
        OutputError,
        match=r"p\.html exists, and this command with these options did not make it: --overwrite replaces it",
    ):
        request.check_files()
    assert page.read_text() == "<html>mine</html>"
    page.unlink()
    page.mkdir()
    with pytest.raises(OutputError, match="is a folder that holds no page"):
        request.check_files()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--pairs", "nowhere/p.html"], "--pairs nowhere/p.html: its folder does not exist"),
        (["--pairs", "p.parquet"], "--pairs p.parquet is no HTML file: give a name that ends with .html"),
        (["--audit", "s3://bucket/a"], "--audit s3://bucket/a is no HTML file"),
        (["--pairs", "p.html", "--audit", "./p.html"], "--pairs and --audit name the same file"),
        (["--audit", "a.html", "--hash-paths"], "--audit writes a page with file names and pictures, which --hash-"),
        (["--audit-run", "run"], "--audit-run needs --audit"),
        (["--audit", "a.html", "--audit-run", "no-run"], "--audit-run no-run is no folder"),
        (["--audit", "a.html", "--audit-run", "."], "--audit-run . holds no predictions"),
    ],
)
def test_wrong_options_are_one_line_before_anything_starts(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("index", "no-source", "--out", "m.parquet", *options)
    assert result.exit_code in (1, 2)
    (line,) = result.output.splitlines()
    assert line.startswith("Error: ")
    assert text in line


def test_a_page_of_another_tool_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text('<meta name="generator" content="another tool">')
    with pytest.raises(BrainscaleError, match="did not make it"):
        document.check_location(str(path), "--audit", "brainscale index")


def test_both_pages_fit_a_phone_and_a_desk(copied: Path, tmp_path: Path) -> None:
    manifest = index_folder(copied)
    write_pairs(manifest, tmp_path / "p.html")
    write_audit(manifest, tmp_path / "a.html")

    async def visit(page: Path) -> None:
        async with cdp.tab(tmp_path / page.stem) as tab:
            await tab.open(page, 390, 900)
            for width in (390, 1280):
                await tab.resize(width, 900)
                assert await tab.run("document.documentElement.scrollWidth <= innerWidth"), (page.name, width)
            assert tab.named("Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening") == []
            asked = {event["request"]["url"] for event in tab.named("Network.requestWillBeSent")}
            assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}

    for name in ("p.html", "a.html"):
        asyncio.run(visit(tmp_path / name))


def test_pages_lie_in_stores_too(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with s3_server(tmp_path / "log") as port:
        make_bucket(f"127.0.0.1:{port}", "bucket")
        folder = place("s3", f"127.0.0.1:{port}", "pages")
        request = PageRequest(pairs=join_address(folder, "p.html"))
        for _ in range(2):
            assert request.check_files() is None
            request.write(index_folder(copied), Config(), None)
        assert b"Near duplicates" in ObjectStore(folder).get("p.html")
        ObjectStore(folder).put("p.html", io.BytesIO(b"mine"))
        with pytest.raises(OutputError, match="did not make it"):
            request.check_files()


def test_a_name_for_two_options_is_refused_once() -> None:
    with pytest.raises(UsageError, match="same file"):
        PageRequest(pairs="s3://b/p.html", audit="s3://b/p.html").check_options(hash_paths=False)
