"""Comparison of evaluations that exist; no Ray."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import brainscale as bs
from brainscale.dataset import header_control
from brainscale.errors import BundleError, ManifestError
from brainscale.evaluation import comparison, header_votes
from brainscale.evaluation.evaluated_run import FACTS
from brainscale.schema import COMPARISON, METRICS, PAIRS, PUBLISHED
from brainscale.stats.delong import delong, delong_pair
from brainscale.stats.resampling import group_codes
from brainscale.storage.local import write_success
from brainscale.storage.tables import write_table
from tests.support.runs import Invoke, succeed
from tests.support.samples import CLASSES, estimates, two_columns
from tests.support.tables import evaluation, manifest, predictions


def test_an_evaluation_of_an_older_version_is_refused(tmp_path: Path) -> None:
    facts = dict.fromkeys(FACTS, "1")
    for name, lacking in (("new", None), ("old", "flops")):
        (tmp_path / name).mkdir()
        metadata = {key: value for key, value in facts.items() if key != lacking}
        table = pa.Table.from_pylist([], schema=METRICS).replace_schema_metadata(metadata)
        write_table(table, tmp_path / name / "metrics.parquet", "metrics")
        write_success(tmp_path / name, {})
    with pytest.raises(BundleError, match=r"old lacks flops: an older version .* evaluate that model again"):
        comparison.compare_runs([str(tmp_path / "old")])
    with pytest.raises(BundleError, match="new lacks its manifest: an older version"):
        comparison.compare_runs([str(tmp_path / "new"), str(tmp_path / "old")])


def models(tmp_path: Path, n: int = 240) -> tuple[pa.Table, dict[str, np.ndarray]]:
    """Two evaluations of the first half of a manifest whose headers tell the label, but not always; two in a group."""
    draw = np.random.default_rng(0)
    labels = np.arange(n) // 2 % 2
    sizes = 1000 + 400 * labels + draw.integers(0, 900, n // 2).repeat(2)
    table = manifest(labels, nbytes=sizes.tolist(), group=[f"g{i // 2:03d}" for i in range(n)])
    half, scores = table.slice(0, n // 2), {}
    for name, strength in (("good", 4.0), ("poor", 0.0)):
        scores[name] = 1 / (1 + np.exp(-draw.normal(size=n // 2) - strength * (labels[: n // 2] - 0.5)))
        evaluation(tmp_path / name, table, predictions(half, scores[name]))
    return table, scores


def test_the_control_is_evaluated_on_the_models_samples_and_tested_against_them(tmp_path: Path) -> None:
    table, scores = models(tmp_path)
    compared = comparison.compare_runs([str(tmp_path / "good"), str(tmp_path / "poor")])
    assert compared.table.schema == COMPARISON
    assert compared.pairs is not None
    assert compared.pairs.schema == PAIRS
    assert compared.not_comparable is None
    assert compared.pairs["not_comparable"].null_count == len(compared.pairs)
    control = compared.table.to_pylist()[-1]
    assert (control["model"], control["n"], control["parameters"]) == (comparison.CONTROL, 120, None)
    votes = header_control.predict_from_headers(table, {name: i for i, name in enumerate(CLASSES)})
    labels, vote = votes.labels[:120], votes.probabilities[:120]
    codes = group_codes(table["group"].to_pylist()[:120])
    assert control["auroc"] == pytest.approx(delong(vote[:, 1], labels, codes)[0])
    assert 0.6 < control["auroc"] < 0.95
    expected = estimates(labels, vote, groups=codes)
    for name in PUBLISHED:
        own = control[name], control[f"{name}_low"]
        assert own == pytest.approx((expected[name].value, expected[name].low)), name
    rows = {(r["a"].rsplit("/")[-1], r["b"].rsplit("/")[-1]): r for r in compared.pairs.to_pylist()}
    assert list(rows) == [("good", "poor"), ("good", comparison.CONTROL), ("poor", comparison.CONTROL)]
    by_hand = delong_pair(scores["good"], vote[:, 1], labels, codes)  # by group, which only the manifest knows
    good = rows["good", comparison.CONTROL]
    assert (good["difference"], good["p"]) == pytest.approx((by_hand.difference, by_hand.p), rel=1e-5)
    assert good["p_holm"] < 0.05
    assert rows["poor", comparison.CONTROL]["difference"] < 0


def test_the_control_of_an_evaluation_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models(tmp_path)
    runs = [str(tmp_path / "good"), str(tmp_path / "poor")]
    made = comparison.compare_runs(runs)
    table = pq.read_table(tmp_path / "good" / "manifest.parquet")
    labelled = pq.read_table(tmp_path / "good" / "predictions.parquet")
    votes = header_votes.find_votes(None, lambda: table, labelled["sample_id"], CLASSES)
    header_votes.write_votes(votes, tmp_path / "good")
    monkeypatch.setattr(header_votes, "predict_from_headers", None)
    kept = comparison.compare_runs(runs)
    assert kept.table.equals(made.table)
    assert kept.pairs == made.pairs
    header_votes.write_votes(votes.select(votes.sample_ids[1:]), tmp_path / "good")  # of other samples
    with pytest.raises(TypeError, match="not callable"):
        comparison.compare_runs(runs)


def test_of_a_large_run_the_control_votes_on_some_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header_control, "CONTROL_ROWS", 80)
    _, scores = models(tmp_path)
    compared = comparison.compare_runs([str(tmp_path / "good"), str(tmp_path / "poor")])
    assert compared.pairs is not None
    assert compared.table["n"].to_pylist() == [120, 120, 80]
    assert compared.pairs["n"].to_pylist() == [120, 80, 80]
    chosen, labels = header_control.choose_rows(120), np.arange(120) // 2 % 2
    assert len(set(chosen.tolist())) == 80
    expected = estimates(labels[chosen], two_columns(scores["good"][chosen]))["auroc"]
    assert compared.pairs["auroc_a"].to_pylist()[1] == pytest.approx(expected.value, rel=1e-5)
    control = compared.table["auroc"].to_pylist()[2]
    assert compared.pairs["auroc_b"].to_pylist()[1:] == pytest.approx([control, control])


def change_facts(folder: Path, **facts: str) -> None:
    """Let an evaluation say other things of itself."""
    table = pq.read_table(folder / "metrics.parquet")
    known = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    pq.write_table(table.replace_schema_metadata(known | facts), folder / "metrics.parquet")


def test_different_samples_are_refused_or_named_in_every_output(tmp_path: Path, invoke: Invoke) -> None:
    """The second model was evaluated on two samples less, and on one of another content."""
    table, scores = models(tmp_path)
    other = table.slice(2)
    hashes = pa.array(["f" * 64, *other["sha256"].to_pylist()[1:]])
    other = other.set_column(other.schema.get_field_index("sha256"), "sha256", hashes)
    evaluation(tmp_path / "other", other, predictions(other.slice(0, 118), scores["poor"][2:]))
    good, out = tmp_path / "good", tmp_path / "t.parquet"
    names = f"{good} and {tmp_path / 'other'}"
    refused = invoke("compare", good, tmp_path / "other", "--out", out)
    assert (refused.exit_code, refused.stdout, out.exists()) == (1, "", False)
    assert refused.stderr.endswith(
        f"Error: Not comparable: {names} were evaluated with different samples: evaluate all of them with the same "
        "--data and --split, each into a new --out, and compare these folders, or allow it with --force, which marks "
        "every output\n"
    )
    reason = f"Not comparable: {names} were evaluated with different samples."
    with pytest.raises(ManifestError, match="different samples"):
        bs.compare([good, tmp_path / "other"])
    compared = bs.compare([good, tmp_path / "other"], force=True)
    assert compared.not_comparable == reason

    def said(*options: str) -> str:
        return succeed(invoke("compare", good, tmp_path / "other", "--force", "--out", out, *options)).stdout

    text = said()
    assert max(map(len, text.splitlines())) <= 80
    first_paragraph = text.split("\n\n")[0]
    assert "".join(first_paragraph.split()) == "".join(reason.split())
    assert text.count("Not comparable: ") == 2  # over each of the two tables
    assert said("--markdown").startswith("Not comparable: ")
    facts = json.loads(said("--json"))
    assert (facts["comparable"], facts["not_comparable"]) == (False, reason)
    assert len(facts["models"]) == 3
    assert {row["n"] for row in facts["pairs"]} == {117}  # the samples that both have, with the same content
    for name in ("t.parquet", "t-pairs.parquet"):
        assert set(pq.read_table(tmp_path / name)["not_comparable"].to_pylist()) == {reason}
    assert len(set(pq.read_table(out)["samples_sha256"].to_pylist())) == 2


def test_different_classes_are_never_paired(tmp_path: Path) -> None:
    models(tmp_path)
    change_facts(tmp_path / "poor", classes='["none", "some"]')
    runs = [str(tmp_path / "good"), str(tmp_path / "poor")]
    with pytest.raises(ManifestError, match="were evaluated with different classes"):
        comparison.compare_runs(runs)
    compared = comparison.compare_runs(runs, force=True)
    assert compared.not_comparable is not None
    assert compared.not_comparable.endswith("were evaluated with different classes.")
    assert compared.pairs is None


def test_degenerate_and_edited_models_are_named_first(tmp_path: Path, invoke: Invoke) -> None:
    models(tmp_path)
    sentence = "This model is degenerate: it predicts tumour for every sample."
    change_facts(tmp_path / "poor", degenerate=sentence, model_edited="True")
    folders = (tmp_path / "good", tmp_path / "poor")
    text = succeed(invoke("compare", *folders)).stdout.split("\n\n")
    assert [" ".join(paragraph.split()) for paragraph in text[:2]] == [
        f"brainmrnet (poor): {sentence}",
        "brainmrnet (poor): model.json was edited after it was written.",
    ]
    facts = json.loads(succeed(invoke("compare", *folders, "--json")).stdout)
    assert (facts["comparable"], facts["not_comparable"]) == (True, None)
    assert [row["degenerate"] for row in facts["models"]] == [None, sentence, None]
    assert [row["model_edited"] for row in facts["models"]] == [False, True, None]


def test_without_enough_groups_there_is_no_control(tmp_path: Path) -> None:
    table = manifest(np.arange(12) % 2, group=[f"g{i % 4}" for i in range(12)])
    evaluation(tmp_path / "one", table, predictions(table, np.linspace(0.1, 0.9, 12)))
    compared = comparison.compare_runs([str(tmp_path / "one")])
    assert (len(compared.table), compared.pairs) == (1, None)
    assert header_control.estimate_header_control(table, CLASSES[0]).reason == (
        "a class has only 2 group(s): the header-only control needs 10 of each class"
    )


def test_the_interval_of_the_control_takes_groups_into_account() -> None:
    """Each sample four times, in one group: the area's interval is that of a quarter as many."""
    draw = np.random.default_rng(1)
    labels, sizes = np.arange(120) % 2, draw.integers(0, 1000, 120) + 300 * (np.arange(120) % 2)
    once = manifest(labels, nbytes=sizes.tolist())
    copied = manifest(labels.repeat(4), nbytes=sizes.repeat(4).tolist(), group=[f"g{i // 4:03d}" for i in range(480)])
    one, four = (header_control.estimate_header_control(table, CLASSES[0]) for table in (once, copied))
    assert four.n == 480
    assert four.high - four.low == pytest.approx(one.high - one.low, rel=0.25)


def test_runs_have_the_names_that_are_given(tmp_path: Path) -> None:
    """A run in an object store is compared as a copy in a temporary folder, of which no output may speak."""
    models(tmp_path)
    change_facts(tmp_path / "poor", samples_sha256="f" * 64)
    runs, names = [str(tmp_path / "good"), str(tmp_path / "poor")], ["s3://bucket/good", "s3://bucket/poor"]
    compared = comparison.compare_runs(runs, names=names, force=True)
    assert compared.pairs is not None
    text = json.dumps(compared.to_json())
    assert str(tmp_path) not in text
    assert {compared.pairs["a"][0].as_py(), compared.pairs["b"][0].as_py()} == set(names)
    assert (
        compared.not_comparable == f"Not comparable: {names[0]} and {names[1]} were evaluated with different samples."
    )
    with pytest.raises(ManifestError, match="s3://bucket/good and s3://bucket/poor"):
        comparison.compare_runs(runs, names=names)
