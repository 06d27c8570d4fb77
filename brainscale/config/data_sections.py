"""The sections of a configuration about data: preprocessing, limits, classes, samples to train on, and splits."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from brainscale.config.class_names import DEFAULT_CLASSES, normalise_name


class Section(BaseModel):
    """One section of a configuration: immutable, with keyword arguments only and no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    later: ClassVar[tuple[str, ...]] = ()
    """Keys that the section did not have at first."""

    def facts(self) -> dict[str, Any]:
        """Return what a fingerprint covers: every key, but those of `later` only if their value is not the default.

        So what was made before there was such a key keeps its fingerprint.
        """
        facts = self.model_dump(mode="json")
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if isinstance(value, Section):
                facts[name] = value.facts()
            elif name in self.later and value == field.default:
                del facts[name]
        return facts

    @field_validator("*", mode="before")
    @classmethod
    def _accept_scientific_notation(cls, value: Any, info: ValidationInfo) -> Any:
        """Convert texts such as 1e-4, which YAML does not read as numbers."""
        if isinstance(value, str) and cls.model_fields[str(info.field_name)].annotation is float:
            try:
                return float(value)
            except ValueError:
                return value
        return value


class PreprocessConfig(Section):
    """How an image becomes the square plane that the network sees. It is saved with the model."""

    later = ("normalisation",)

    image_size: Annotated[int, Field(ge=64, le=2048, description="Side of the plane, in pixels.")] = 224
    crop: Annotated[float, Field(gt=0.1, le=1.0, description="Fraction of each side that the centre crop keeps.")] = (
        0.875
    )
    window: Annotated[
        tuple[float, float],
        Field(description="Percentiles of the intensities that become 0 and 255, for images of more than 8 bits."),
    ] = (0.5, 99.5)
    window_source: Annotated[
        Literal["volume", "file"],
        Field(
            description="Where the window of a slice comes from: volume (these percentiles of its whole series or "
            "volume) or file (the VOI window or table of the DICOM file, where it has one)."
        ),
    ] = "volume"
    slices: Annotated[
        Literal["axial", "coronal", "sagittal"], Field(description="Orientation of the slices of a NIfTI volume.")
    ] = "axial"
    fit: Annotated[
        Literal["squash", "pad", "head", "head_pad"],
        Field(
            description="How an image fits the square plane: squash (stretched), pad (black margins keep the aspect "
            "ratio), head (the bounding box of the head, stretched) or head_pad (that box, with margins)."
        ),
    ] = "squash"
    normalisation: Annotated[
        Literal["none", "histogram", "z_score"],
        Field(
            description="Normalisation of the plane's grey levels: none, histogram (equalised) or z_score (mean near "
            "128, standard deviation near 48). Air, which is dark, does not count."
        ),
    ] = "none"

    @model_validator(mode="before")
    @classmethod
    def _window_from_list(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("window"), list):
            return {**values, "window": tuple(map(float, values["window"]))}
        return values

    @model_validator(mode="after")
    def _check_window(self) -> "PreprocessConfig":
        low, high = self.window
        if not 0 <= low < high <= 100:
            raise ValueError(
                f"window must be two percentiles between 0 and 100, the lower one first, not {list(self.window)}"
            )
        return self

    @property
    def window_rule(self) -> str:
        """Return how windows are chosen, in one line."""
        low, high = self.window
        return f"{self.window_source}, percentiles {low:g} and {high:g}"


class LimitsConfig(Section):
    """Limits on what one file may require. A file beyond a limit becomes a row with an error."""

    file_mib: Annotated[
        int, Field(ge=1, description="Maximum size of one file or archive member after decompression, in MiB.")
    ] = 512
    pixels: Annotated[int, Field(ge=1, description="Maximum number of pixels in one frame.")] = 100_000_000
    frames: Annotated[int, Field(ge=1, description="Maximum number of frames in one file.")] = 20_000
    voxels: Annotated[int, Field(ge=1, description="Maximum number of pixels in all frames of one file.")] = 2**30
    ratio: Annotated[
        int, Field(ge=1, description="Maximum compression ratio of an archive, checked after its first 64 MiB.")
    ] = 200
    entries: Annotated[
        int, Field(ge=1, description="Maximum number of entries in one archive, with those of archives inside it.")
    ] = 1_000_000
    depth: Annotated[int, Field(ge=1, description="Maximum number of nested archives and compressions.")] = 6
    memory_mib: Annotated[int, Field(ge=512, description="Maximum memory for decoding one file, in MiB.")] = 4096
    seconds: Annotated[float, Field(gt=0, description="Maximum time for decoding one frame, in seconds.")] = 300.0

    @property
    def nbytes(self) -> int:
        """Return the maximum size of one file or archive member in bytes."""
        return self.file_mib * 2**20


class IncludeConfig(Section):
    """Which kinds of samples are trained on. A sample is left out only if its file says that it is of such a kind."""

    modalities: Annotated[
        tuple[str, ...] | None,
        Field(min_length=1, description="Modalities, in the terms of DICOM such as MR and CT; null: all."),
    ] = ("MR",)
    other_orientations: Annotated[
        bool, Field(description="Whether planes in another orientation than `data.slices` are trained on.")
    ] = False
    localizers: Annotated[bool, Field(description="Whether localizers are trained on.")] = False
    derived: Annotated[
        bool, Field(description="Whether derived images are trained on, such as reformatted or anonymised ones.")
    ] = True
    secondary_captures: Annotated[
        bool, Field(description="Whether secondary captures are trained on, such as screenshots.")
    ] = False
    burned_in: Annotated[
        bool, Field(description="Whether other images with text in their pixels are trained on (BurnedInAnnotation).")
    ] = False

    @field_validator("modalities", mode="before")
    @classmethod
    def _modalities_from_list(cls, values: Any) -> Any:
        return tuple(values) if isinstance(values, list) else values


class DataConfig(PreprocessConfig):
    """Preprocessing, the classes with the folder names that stand for them, and the samples to train on."""

    classes: Annotated[
        dict[str, list[str]],
        Field(
            description="Classes and the folder names that stand for each; the class without a tumour comes first. "
            "Case, spaces, underscores and hyphens do not matter."
        ),
    ] = DEFAULT_CLASSES
    include: Annotated[
        IncludeConfig, Field(description="Which kinds of samples are trained on; a section of its own.")
    ] = IncludeConfig()

    @model_validator(mode="after")
    def _check_classes(self) -> "DataConfig":
        if len(self.classes) < 2:
            raise ValueError("classes must name at least two classes, the one without a tumour first")
        class_of: dict[str, str] = {}
        for label, names in self.classes.items():
            for name in map(normalise_name, [label, *names]):
                if (other := class_of.setdefault(name, label)) != label:
                    raise ValueError(
                        f"classes lists the folder name '{name}' twice, in {other} and {label}: remove one"
                    )
        return self

    @property
    def preprocess(self) -> PreprocessConfig:
        """Return the keys that decide how an image becomes a plane."""
        return PreprocessConfig(**{name: getattr(self, name) for name in PreprocessConfig.model_fields})

    def label(self, folder: str) -> str | None:
        """Return the class of a folder name, compared by `normalise_name`, or None if no class lists it."""
        name = normalise_name(folder)
        return next((c for c, names in self.classes.items() if name in map(normalise_name, [c, *names])), None)


class SplitConfig(Section):
    """How data without a split is divided. Samples of one group always stay in the same split."""

    val: Annotated[float, Field(gt=0, lt=1, description="Validation fraction (model selection).")] = 0.15
    test: Annotated[float, Field(ge=0, lt=1, description="Test fraction (final evaluation).")] = 0.2
    seed: Annotated[int, Field(ge=0, lt=2**63, description="Random seed of the split.")] = 0
    similarity: Annotated[
        Annotated[float, Field(ge=0.8, le=1)] | None,
        Field(description="Minimum similarity of near duplicates; null: near duplicates are not looked for."),
    ] = 0.97

    @model_validator(mode="after")
    def _check_sum(self) -> "SplitConfig":
        if self.val + self.test >= 1:
            raise ValueError(f"val {self.val} and test {self.test} leave nothing to train on: keep their sum below 1")
        return self
