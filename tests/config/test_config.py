import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from brainscale.config import files, sections, template
from brainscale.errors import UsageError

NAMED = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", NAMED, ids=lambda p: p.stem)
def test_every_named_configuration_loads_and_is_complete(path: Path) -> None:
    loaded = files.load_config(path.stem)
    assert yaml.safe_load(path.read_text()).keys() == loaded.model_dump().keys()
    for section, values in loaded.model_dump().items():
        assert yaml.safe_load(path.read_text())[section].keys() == values.keys()


def test_the_first_named_configuration_is_the_default() -> None:
    assert files.load_config("brainmrnet") == sections.Config()


@pytest.mark.parametrize("path", NAMED, ids=lambda p: p.stem)
def test_a_template_is_the_configuration_with_a_comment_on_every_key(path: Path, tmp_path: Path) -> None:
    config = files.load_config(path.stem, ["data.classes={none: ['a: b', '#c', \"d'e\"], tumour: ['yes', x]}"])
    (tmp_path / "new.yaml").write_text(text := template.write_template(config))
    assert files.load_config(str(tmp_path / "new.yaml")) == config
    lines = text.splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r"  +\w+:", line) and "    none:" not in line]
    assert len(keys) > 50
    undocumented = [lines[n] for n in keys if not lines[n - 1].lstrip().startswith("#") and ":" in lines[n]]
    assert [line.strip() for line in undocumented] == ["tumour: ['yes', x]"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs=3", "unknown key 'epochs': did you mean train.epochs?"),
        ("threshold=0.4", "unknown key 'threshold': did you mean operating.threshold?"),
        ("epoch=3", "unknown key 'epoch': did you mean train.epochs?"),
        ("train.epoch=3", "unknown key 'train.epoch': did you mean train.epochs?"),
        ("data.epochs=3", "unknown key 'data.epochs': did you mean train.epochs?"),
        ("trian.epochs=3", "unknown key 'trian': did you mean train?"),
        ("modality=[MR]", "unknown key 'modality': did you mean data.include.modalities?"),
        ("learning-rate=1", "unknown key 'learning-rate': did you mean train.learning_rate?"),
        ("lr=1", "unknown key 'lr': did you mean train.learning_rate?"),
        ("batch=1", "unknown key 'batch': did you mean train.batch_size or train.micro_batch?"),
        ("train.bogus=1", "unknown key 'train.bogus': choose from seed, epochs, batch_size"),
        ("bogus=1", "unknown key 'bogus': choose from model, data, limits, split"),
        ("train.epochs=many", "train.epochs should be a valid integer, not 'many'"),
        ("train.epochs=", "train.epochs should be a valid integer, not empty"),
        ("train.epochs=true", "train.epochs should be a valid integer, not true"),
        ("train=5", "train is a section, so it has no value: set one of its keys, such as train.seed"),
        ("augment.flip=maybe", "augment.flip should be a valid boolean, not 'maybe'"),
        ("resources.workers=many", "resources.workers should be a valid integer or 'auto', not 'many'"),
        ("data.window=5", "data.window should be a list in brackets, not 5"),
        ("data.classes=[a, b]", "data.classes should be a mapping of names to values, not ['a', 'b']"),
        ("train.epochs=0", "train.epochs should be greater than or equal to 1, not 0"),
        ("model.name=resnet", "unknown model 'resnet': did you mean 'resnet50'?"),
        ("train.micro_batches=4", "unknown key 'train.micro_batches': did you mean train.micro_batch?"),
        ("train.micro_batch=1", "train.micro_batch should be greater than or equal to 2, not 1"),
        (
            "train.batch_size=48",
            "batch_size 48 is not micro_batch 16 times a power of two: use batch_size 32 or 64, or",
        ),
        (
            "train.batch_size=8",
            "batch_size 8 is not micro_batch 16 times a power of two: use batch_size 16, or another",
        ),
        ("train.batch_size=40", "batch_size 40 is not micro_batch 16 times a power of two: use batch_size 32 or 64"),
        (
            "resources.workers=3",
            "3 workers cannot share the 4 micro-batch(es) of a batch evenly (batch_size 64, micro_batch 16): use 1, 2 "
            "or 4 workers",
        ),
        ("resources.workers=8", "use 1, 2 or 4 workers, or batch_size 128 (another result)"),
        ("data.image_size=32", "data.image_size should be greater than or equal to 64, not 32"),
        ("data.window=[9, 1]", "window must be two percentiles between 0 and 100, the lower one first"),
        ("data.classes={a: [x]}", "classes must name at least two classes"),
        ("data.classes={a: [x], b: [X]}", "classes lists the folder name 'x' twice, in a and b: remove one"),
        ("data.classes={a: [x y], b: [X_Y]}", "classes lists the folder name 'xy' twice"),
        ("data.classes={a: [b], b: [c]}", "classes lists the folder name 'b' twice"),
        ("split={val: 0.6, test: 0.5}", "leave nothing to train on"),
        ("train", "--set takes section.key=value"),
        ("train.epochs=[", "the value is not valid YAML"),
        ("train.epochs.x=1", "train.epochs should be a valid integer, not a section"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        files.load_config(None, [text])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_name_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no configuration 'brainmrne': did you mean 'brainmrnet'"):
        files.load_config("brainmrne")
    (tmp_path / "bad.yaml").write_text("train: [")
    with pytest.raises(UsageError, match="is not valid YAML"):
        files.load_config(str(tmp_path / "bad.yaml"))
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(UsageError, match="must contain sections"):
        files.load_config(str(tmp_path / "list.yaml"))


def test_scientific_notation_is_a_number() -> None:
    loaded = files.load_config(None, ["train.learning_rate=1e-4", "train.weight_decay=2"])
    assert (loaded.train.learning_rate, loaded.train.weight_decay) == (1e-4, 2.0)
    with pytest.raises(UsageError, match="train.learning_rate should be a valid number"):
        files.load_config(None, ["train.learning_rate=fast"])


def test_yaml_round_trip_and_fingerprint() -> None:
    one = files.load_config(None, ["train.epochs=7", "resources.workers=2"])
    assert files.parse_config(yaml.safe_load(one.to_yaml())) == one
    assert one.fingerprint == files.load_config(None, ["train.epochs=7"]).fingerprint  # workers decide no result
    assert one.fingerprint != files.load_config(None, ["train.epochs=8"]).fingerprint


FIRST_FINGERPRINT = "25d05c199ab682f1ae5932da13a809c9d7401f1f20f56956dbf9199118314916"


def test_a_younger_key_that_is_left_alone_does_not_change_the_fingerprint_of_a_run() -> None:
    assert files.load_config(None).fingerprint == FIRST_FINGERPRINT
    changes = ["data.normalisation=z_score", "augment.elastic=0.05", "augment.bias_field=0.2"]
    for change in [*changes, "train.norm_statistics=precise"]:
        assert files.load_config(None, [change]).fingerprint != FIRST_FINGERPRINT


def test_what_a_fingerprint_covers_has_a_younger_key_only_where_it_is_set() -> None:
    data = sections.DataConfig()
    assert "normalisation" not in data.facts()
    assert data.facts() == data.preprocess.facts() | {name: data.facts()[name] for name in ("classes", "include")}
    changed = data.model_copy(update={"normalisation": "histogram"})
    assert changed.facts() == data.facts() | {"normalisation": "histogram"}


@given(st.sampled_from(["yes", "YES", "Tumor", "glioma", "no", "NoTumor", "tumour", "no_tumour"]))
def test_folder_names_mean_classes_in_any_case(name: str) -> None:
    expected = "no_tumour" if name.lower().startswith("no") else "tumour"
    assert sections.DataConfig().label(name) == expected


@given(st.lists(st.sampled_from([" ", "_", "-", "  "]), min_size=3, max_size=3), st.booleans())
def test_spaces_underscores_hyphens_and_spelling_do_not_matter(gaps: list[str], british: bool) -> None:
    word = "Tumour" if british else "Tumor"
    data = sections.DataConfig()
    assert data.label(f"No{gaps[0]}{word}") == data.label(f"non{gaps[0]}{word}{gaps[1]}") == "no_tumour"
    assert data.label(f"Brain{gaps[1]}{word}") == data.label(f"{gaps[2]}glioma{gaps[2]}{word}") == "tumour"


def test_one_class_may_list_a_name_in_two_spellings() -> None:
    assert sections.DataConfig(classes={"a": ["x y", "x_y"], "b": ["z"]}).label("XY") == "a"


@pytest.mark.parametrize("name", ["cats", "No.12", "NO.3_2021", "no1", "yes.zip", "Training", "1", "pred", ""])
def test_an_unknown_folder_means_no_class(name: str) -> None:
    assert sections.DataConfig().label(name) is None
