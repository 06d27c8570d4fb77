"""What a run is made of: strict, complete, and written down.

A configuration is a YAML file of the sections below. Unknown keys fail and list the valid ones. `--set a.b=c`
overrides one value. The fingerprint covers what decides the result, and leaves out `resources`, which only
decides how fast it comes.
"""

from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from brainscale.config import explain
from brainscale.hashing import fingerprint

ARCHITECTURES = ("brainmrnet", "brainmrnet_paper", "vgg16", "resnet50", "densenet121")
"""Names of the networks; `models.registry` builds them."""
DEFAULT_CLASSES: dict[str, list[str]] = {
    "no_tumour": ["no", "notumor", "no_tumor", "notumour", "no_tumour", "normal", "healthy"],
    "tumour": ["yes", "tumor", "tumour", "glioma", "meningioma", "pituitary"],
}
"""Class → folder names that mean it. The first class is the one without a tumour."""


class Section(BaseModel):
    """A part of the configuration: immutable, keyword-only, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _scientific(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads 1e-4 as a text, a person as a number."""
        if isinstance(value, str) and cls.model_fields[str(info.field_name)].annotation is float:
            try:
                return float(value)
            except ValueError:
                return value
        return value


class ModelConfig(Section):
    """Which network, and where its first weights come from."""

    name: str = "brainmrnet"
    weights: str | None = None  # null: random; imagenet: torchvision's; or a .safetensors file

    @model_validator(mode="after")
    def _known(self) -> "ModelConfig":
        if self.name not in ARCHITECTURES:
            raise ValueError(f"unknown model '{self.name}'{explain.did_you_mean(self.name, ARCHITECTURES)}")
        return self


class PreprocessConfig(Section):
    """How a frame becomes a plane; saved with the model, and part of every score's meaning."""

    image_size: Annotated[int, Field(ge=64, le=2048)] = 224  # side of the plane, pixels
    crop: Annotated[float, Field(gt=0.1, le=1.0)] = 0.875  # centre part kept; 0.875 is 224 of 256
    window: tuple[float, float] = (0.5, 99.5)  # percentiles that become 0 and 255 beyond 8 bits
    slices: Literal["axial", "coronal", "sagittal"] = "axial"  # of a NIfTI volume

    @model_validator(mode="before")
    @classmethod
    def _window_from_list(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("window"), list):
            return {**values, "window": tuple(map(float, values["window"]))}
        return values

    @model_validator(mode="after")
    def _ordered(self) -> "PreprocessConfig":
        low, high = self.window
        if not 0 <= low < high <= 100:
            raise ValueError(f"window must be two rising percentiles in 0..100, not {list(self.window)}")
        return self


class LimitsConfig(Section):
    """What a file may ask for before it is decoded; beyond, it is a row with an error."""

    file_mib: Annotated[int, Field(ge=1)] = 512  # one encoded file or member, once uncompressed
    pixels: Annotated[int, Field(ge=1)] = 100_000_000  # one frame: 10,000 × 10,000
    frames: Annotated[int, Field(ge=1)] = 20_000  # in one file
    voxels: Annotated[int, Field(ge=1)] = 2**30  # in one file, all frames together
    ratio: Annotated[int, Field(ge=1)] = 200  # bytes out of an archive for each byte in it, beyond 64 MiB
    depth: Annotated[int, Field(ge=1)] = 6  # layers of archives and compression
    memory_mib: Annotated[int, Field(ge=512)] = 4096  # for decoding one file
    seconds: Annotated[float, Field(gt=0)] = 300.0  # for decoding one frame

    @property
    def nbytes(self) -> int:
        """The most that one file or member may hold."""
        return self.file_mib * 2**20


class DataConfig(PreprocessConfig):
    """Preprocessing, and which folder name means which class."""

    classes: dict[str, list[str]] = DEFAULT_CLASSES

    @model_validator(mode="after")
    def _distinct(self) -> "DataConfig":
        if len(self.classes) < 2:
            raise ValueError("classes needs two classes at least, the one without a tumour first")
        folders = [name.lower() for names in self.classes.values() for name in names]
        twice = sorted({name for name in folders if folders.count(name) > 1})
        if twice:
            raise ValueError(f"folder name '{twice[0]}' stands for two classes")
        return self

    @property
    def preprocess(self) -> PreprocessConfig:
        """The part that turns a frame into a plane."""
        return PreprocessConfig(**{name: getattr(self, name) for name in PreprocessConfig.model_fields})

    def label(self, folder: str) -> str | None:
        """The class that a folder name means, whatever its case; None if it means none."""
        name = folder.lower()
        return next((c for c, names in self.classes.items() if name in {n.lower() for n in [c, *names]}), None)


class SplitConfig(Section):
    """Shares of the labelled groups that training does not see."""

    val: Annotated[float, Field(gt=0, lt=1)] = 0.15
    test: Annotated[float, Field(ge=0, lt=1)] = 0.2
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0  # another seed, another split
    distance: Annotated[int, Field(ge=0, le=8)] = 4  # bits of the perceptual hash within which two images are copies

    @model_validator(mode="after")
    def _leaves_some(self) -> "SplitConfig":
        if self.val + self.test >= 1:
            raise ValueError(f"val {self.val} + test {self.test} leaves nothing to train on")
        return self


class AugmentConfig(Section):
    """Random changes to a training plane; zero or false turns one off."""

    flip: bool = True  # left–right
    rotate: Annotated[float, Field(ge=0, le=180)] = 15.0  # degrees, either way
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.1  # relative, either way
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.05  # of the side, either way
    intensity: Annotated[float, Field(ge=0, lt=1)] = 0.15  # gain and offset, relative, either way


class TrainConfig(Section):
    """The optimisation."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    epochs: Annotated[int, Field(ge=1)] = 100
    batch_size: Annotated[int, Field(ge=2)] = 64
    micro_batches: Annotated[int, Field(ge=1, le=1024)] = 4  # in a batch; a power of two
    optimizer: Literal["adam", "adamw"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    warmup_epochs: Annotated[float, Field(ge=0)] = 5.0  # linear, from warmup_start
    warmup_start: Annotated[float, Field(ge=0)] = 1e-5  # learning rate at step 0
    patience: Annotated[int, Field(ge=1)] = 10  # epochs without a better validation loss before the end
    min_gain: Annotated[float, Field(ge=0)] = 1e-3  # of validation loss, to count as better
    threads: Annotated[int, Field(ge=1)] = 2  # CPU threads of a worker: another count may round differently
    precision: Literal["float32", "tf32", "bf16"] = "float32"  # bf16: autocast; tf32: on CUDA only
    shuffle_window: Annotated[int, Field(ge=1)] = 32768  # samples shuffled together, and in reach of a worker

    @model_validator(mode="after")
    def _cut_evenly(self) -> "TrainConfig":
        if self.micro_batches & (self.micro_batches - 1):
            raise ValueError(f"micro_batches must be a power of two, not {self.micro_batches}")
        if self.batch_size % self.micro_batches or self.batch_size < 2 * self.micro_batches:
            raise ValueError(
                f"batch_size {self.batch_size} does not cut into {self.micro_batches} micro-batches "
                "of two or more: change batch_size or micro_batches"
            )
        return self

    @property
    def window(self) -> int:
        """`shuffle_window` in whole batches."""
        return max(1, self.shuffle_window // self.batch_size) * self.batch_size


class OperatingConfig(Section):
    """What is chosen on the validation part once training has ended; the test part has no say."""

    threshold: Literal["fixed", "youden", "sensitivity"] = "fixed"
    value: Annotated[float, Field(ge=0, le=1)] = 0.5  # the fixed threshold
    target: Annotated[float, Field(gt=0, le=1)] = 0.95  # sensitivity to reach
    temperature: bool = False  # whether probabilities are calibrated by one factor


class ResourcesConfig(Section):
    """How the work is spread; never what it gives."""

    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"  # auto: one for each GPU, or else each node
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_steps: Annotated[int, Field(ge=1)] | None = None  # within an epoch; null: by time only
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 300.0  # within an epoch, between two checkpoints
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1.0  # that Ray sets aside; torch's threads are train.threads
    gpus_per_worker: Annotated[float, Field(gt=0)] = 1.0  # where it trains on GPUs
    object_store_gib: Annotated[float, Field(gt=0)] | None = None  # of a local Ray; null: Ray's own choice
    shared: bool = False  # paths are on storage that every node of a cluster mounts
    restarts: Annotated[int, Field(ge=0)] = 3  # times that training goes on by itself after a worker died


class Config(Section):
    """A whole run."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    limits: LimitsConfig = LimitsConfig()
    split: SplitConfig = SplitConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    operating: OperatingConfig = OperatingConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @model_validator(mode="after")
    def _workers_divide(self) -> "Config":
        workers, micro = self.resources.workers, self.train.micro_batches
        if workers != "auto" and micro % workers:
            fit = ", ".join(str(2**k) for k in range(micro.bit_length()))
            raise ValueError(f"{workers} workers cannot share {micro} micro-batches evenly: use {fit}")
        return self

    @property
    def fingerprint(self) -> str:
        """sha256 of everything that decides the result."""
        return fingerprint(self.model_dump(mode="json", exclude={"resources"}))

    def to_yaml(self) -> str:
        """The complete configuration, as `load` reads it."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
