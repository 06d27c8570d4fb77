"""The sections of a study file: what is trained, on which data, how it is tested, and what a page says about it."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from brainscale.config.data_sections import Section
from brainscale.config.explain import did_you_mean

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""What names of parts, rows and data sets look like: they name folders too."""


class DataSet(Section):
    """A data set of a study; where it lies is said on the command line, `--data NAME=PATH`."""

    title: Annotated[str, Field(description="Name for the page.")]
    citation: Annotated[str, Field(description="Reference, with a link.")] = ""
    licence: Annotated[str, Field(description="Licence or terms.")] = ""
    labels: Annotated[
        str, Field(description="`folder`, or a CSV file inside the data set with sample_id, label and patient.")
    ] = "folder"
    doubtful: Annotated[
        str | None,
        Field(description="CSV file beside the study file: sample_id and reason of samples with a doubtful label."),
    ] = None
    hide_ids: Annotated[
        bool, Field(description="Whether the released index names samples by their content, as ids hold a patient's.")
    ] = False


class Weights(Section):
    """Initial weights: a file whose place is said on the command line, or those that a model of brainscale has."""

    title: Annotated[str, Field(description="Name for the page, with its source and its licence.")]
    sha256: Annotated[str | None, Field(description="SHA-256 that the file must have; null: any.")] = None
    shipped: Annotated[
        str | None, Field(description="Name of the model that comes with brainscale whose weights these are.")
    ] = None

    @model_validator(mode="after")
    def _check_place(self) -> "Weights":
        if self.shipped is not None and self.sha256 is not None:
            raise ValueError(
                "sha256 is of a file that somebody gives, and shipped names a model: remove one of the two"
            )
        return self


class Row(Section):
    """One row of a part: a network and how it is trained, a baseline, or the mean of other rows' probabilities."""

    title: Annotated[str | None, Field(description="Name for the page; null: the name of the row.")] = None
    config: Annotated[str | None, Field(description="Named configuration, or a YAML file; null: the part's.")] = None
    recipe: Annotated[
        str | None, Field(description="Name of a set of changes in `recipes`, made after those of the part.")
    ] = None
    set: Annotated[tuple[str, ...], Field(description="Changes of the configuration, section.key=value.")] = ()
    baseline: Annotated[
        Literal["header_only", "hog_svm", "frozen_features", "given_predictions"] | None,
        Field(description="A baseline in place of a network."),
    ] = None
    average: Annotated[
        tuple[str, ...], Field(description="Rows of this part whose probabilities are averaged, in place of a network.")
    ] = ()
    average_seeds: Annotated[
        bool,
        Field(
            description="Whether the probabilities of all training seeds are averaged too, so each fold has one model."
        ),
    ] = False
    repeats: Annotated[int | None, Field(ge=1, description="Number of divisions of the data; null: the part's.")] = None
    seeds: Annotated[int | None, Field(ge=1, description="Training seeds on the same division; null: the part's.")] = (
        None
    )
    splits: Annotated[int | None, Field(ge=1, description="Number of splits of a leak part; null: the part's.")] = None
    published: Annotated[
        dict[str, float], Field(default_factory=dict, description="Published figures of this network.")
    ]
    differs: Annotated[str, Field(description="How the published figures were made otherwise, a phrase.")] = ""
    note: Annotated[str, Field(description="What a reader must know of this row, a sentence.")] = ""

    @field_validator("set", "average", mode="before")
    @classmethod
    def _from_list(cls, values: Any) -> Any:
        return tuple(values) if isinstance(values, list) else values

    @model_validator(mode="after")
    def _check_kind(self) -> "Row":
        kinds = [name for name in ("baseline", "average") if getattr(self, name)]
        if len(kinds) > 1:
            raise ValueError("a row is a baseline or an average, not both: remove one of the two")
        if len(self.average) == 1 and not self.average_seeds:
            raise ValueError("average needs two rows or more, or average_seeds: true")
        if self.average_seeds and not self.average:
            raise ValueError("average_seeds needs average, the rows whose seeds are averaged")
        return self


class Part(Section):
    """One part of a study: rows that are trained and tested in one way."""

    title: Annotated[str, Field(description="Heading on the page.")]
    text: Annotated[str, Field(description="What the part shows, before its table.")] = ""
    kind: Annotated[
        Literal["folds", "leak", "external", "learning_curve"],
        Field(
            description="folds (cross-validation by groups), leak (splits by image and by group, and a test set that "
            "chooses), external (trained on one data set, tested on another) or learning_curve (shares of the "
            "training data within the same folds)."
        ),
    ]
    data: Annotated[str, Field(description="Data set that is trained on.")]
    test_data: Annotated[str | None, Field(description="Data set that an external part is tested on.")] = None
    folds: Annotated[int, Field(ge=2, description="Number of folds.")] = 5
    fold_by: Annotated[
        str | None, Field(description="Column whose values are the folds, such as site; null: balanced folds.")
    ] = None
    match: Annotated[
        tuple[str, ...],
        Field(description="Columns that test samples are matched on, beside what these columns alone predict."),
    ] = ()
    size: Annotated[
        str | None, Field(description="Column with the size of a tumour, for sensitivity by thirds of it.")
    ] = None
    repeats: Annotated[int, Field(ge=1, description="Number of divisions of the data.")] = 1
    seeds: Annotated[int, Field(ge=1, description="Number of training seeds on the same division.")] = 1
    splits: Annotated[int, Field(ge=1, description="Number of splits of a leak part.")] = 5
    shares: Annotated[tuple[float, ...], Field(description="Shares of the training data of a learning curve.")] = (
        0.125,
        0.25,
        0.5,
        1.0,
    )
    config: Annotated[str, Field(description="Named configuration, or a YAML file, that rows start from.")] = (
        "brainmrnet"
    )
    recipe: Annotated[str | None, Field(description="Named set of changes, of `recipes`, for every row.")] = None
    set: Annotated[tuple[str, ...], Field(description="Changes of the configuration for every row.")] = ()
    reference: Annotated[str | None, Field(description="Row that the others are compared with.")] = None
    rows: Annotated[dict[str, Row], Field(min_length=1, description="Rows by name.")]

    @field_validator("set", "shares", "match", mode="before")
    @classmethod
    def _from_list(cls, values: Any) -> Any:
        return tuple(values) if isinstance(values, list) else values

    @model_validator(mode="before")
    @classmethod
    def _rows_may_be_empty(cls, values: Any) -> Any:
        """Accept `brainmrnet:` for a row that changes nothing."""
        if isinstance(values, dict) and isinstance(values.get("rows"), dict):
            return {**values, "rows": {name: row if row is not None else {} for name, row in values["rows"].items()}}
        return values

    @model_validator(mode="after")
    def _check(self) -> "Part":
        if (self.kind == "external") != (self.test_data is not None):
            raise ValueError("test_data is the data set that an external part is tested on, and only of such a part")
        if any(not 0 < share <= 1 for share in self.shares):
            raise ValueError(f"shares must lie above 0 and not above 1, not {list(self.shares)}")
        named = {name: row.average for name, row in self.rows.items()} | {"reference": (self.reference or "",)}
        for user, others in named.items():
            for other in filter(None, others):
                if other not in self.rows:
                    raise ValueError(f"{user} names the row '{other}'{did_you_mean(other, self.rows)}")
                if user != "reference" and self.rows[other].average:
                    raise ValueError(f"{user} averages '{other}', which is an average itself: name its rows")
        return self

    def repeats_of(self, row: Row) -> int:
        """Return how many divisions of the data a row has."""
        return row.repeats or self.repeats

    def seeds_of(self, row: Row) -> int:
        """Return how many training seeds a row has."""
        return row.seeds or self.seeds

    def splits_of(self, row: Row) -> int:
        """Return how many splits a row of a leak part has."""
        return row.splits or self.splits


class Study(Section):
    """A study: data sets, recipes, and the parts that make its page."""

    title: Annotated[str, Field(description="Heading on the page.")]
    text: Annotated[str, Field(description="What the study is, before its parts.")] = ""
    published_source: Annotated[str, Field(description="Where the published figures come from.")] = ""
    budget_hours: Annotated[float, Field(gt=0, description="Hours that all its models may take on this machine.")] = 24
    data: Annotated[dict[str, DataSet], Field(min_length=1, description="Data sets by name.")]
    weights: Annotated[
        dict[str, Weights],
        Field(default_factory=dict, description="Initial weights by name; rows set model.weights=$NAME."),
    ]
    recipes: Annotated[dict[str, tuple[str, ...]], Field(default_factory=dict, description="Named sets of changes.")]
    parts: Annotated[dict[str, Part], Field(min_length=1, description="Parts by name, the most important first.")]

    @field_validator("recipes", mode="before")
    @classmethod
    def _from_lists(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {name: tuple(each) if isinstance(each, list) else each for name, each in values.items()}
        return values

    @model_validator(mode="after")
    def _check_names(self) -> "Study":
        for where, name, known in self._names():
            if name is not None and name not in known:
                raise ValueError(f"{where} '{name}' is not in the study{did_you_mean(name, known)}")
        return self

    def _names(self) -> Iterator[tuple[str, str | None, Any]]:
        for name, part in self.parts.items():
            yield f"parts.{name}.data", part.data, self.data
            yield f"parts.{name}.test_data", part.test_data, self.data
            yield f"parts.{name}.recipe", part.recipe, self.recipes
            yield from (
                (f"parts.{name}.rows.{row}.recipe", each.recipe, self.recipes) for row, each in part.rows.items()
            )
