"""The sections of a configuration: every key with its type, bounds, default and meaning.

A configuration is a YAML file with the sections below. An unknown key is an error that lists the valid ones. On the
command line, `--set section.key=value` overrides one value. The fingerprint covers everything that decides the result;
it leaves out `resources`, which only decides how fast the result comes.
"""

from typing import Annotated, Literal

import yaml
from pydantic import Field, model_validator

from brainscale.config import explain
from brainscale.config.data_sections import DataConfig, LimitsConfig, Section, SplitConfig
from brainscale.hashing import fingerprint

ARCHITECTURES = ("brainmrnet", "brainmrnet_paper", "vgg16", "resnet50", "densenet121", "efficientnet_lite0")
"""Names of the networks, which `models.registry` builds."""
ViewCount = Literal[1, 2, 6]
"""Number of views of an image whose probabilities a model averages."""


class ModelConfig(Section):
    """The network and its initial weights."""

    name: Annotated[
        str,
        Field(description="Network: brainmrnet, brainmrnet_paper, vgg16, resnet50, densenet121 or efficientnet_lite0."),
    ] = "brainmrnet"
    weights: Annotated[
        str | None,
        Field(
            description="Initial weights: null (random), imagenet (torchvision's; vgg16, resnet50 and densenet121 "
            "only), or the path of a .safetensors file."
        ),
    ] = None
    views: Annotated[
        ViewCount,
        Field(
            description="Views of an image whose probabilities the trained model averages: 1 (the image), 2 (and its "
            "mirror image) or 6 (both turned by -10, 0 and 10 degrees too). Training and its validation loss use 1."
        ),
    ] = 1

    @model_validator(mode="after")
    def _check_name(self) -> "ModelConfig":
        if self.name not in ARCHITECTURES:
            raise ValueError(f"unknown model '{self.name}'{explain.did_you_mean(self.name, ARCHITECTURES)}")
        return self


class AugmentConfig(Section):
    """Random changes to training images. 0 or false turns a change off."""

    later = ("elastic", "bias_field")

    flip: Annotated[bool, Field(description="Whether images are flipped left to right, half of the time.")] = True
    rotate: Annotated[float, Field(ge=0, le=180, description="Maximum rotation, in degrees.")] = 15.0
    scale: Annotated[float, Field(ge=0, lt=1, description="Maximum relative change of size.")] = 0.1
    shift: Annotated[float, Field(ge=0, lt=1, description="Maximum shift, as a fraction of the side.")] = 0.05
    intensity: Annotated[
        float, Field(ge=0, lt=1, description="Maximum relative change of contrast and brightness.")
    ] = 0.15
    gamma: Annotated[
        float, Field(ge=0, le=2, description="Maximum change of the logarithm of gamma (the exponent of intensities).")
    ] = 0.0
    mixup: Annotated[
        float,
        Field(
            ge=0,
            description="Mixup: images of a micro-batch are blended in pairs, with shares from a beta distribution "
            "with both parameters equal to this number.",
        ),
    ] = 0.0
    elastic: Annotated[
        float,
        Field(
            ge=0,
            le=0.1,
            description="Elastic deformation: maximum shift of a point along each axis, as a fraction of the side.",
        ),
    ] = 0.0
    bias_field: Annotated[
        float,
        Field(
            ge=0,
            le=2,
            description="Bias field, as receiver coils cause it: intensities are multiplied by a smooth field between "
            "exp(-x) and exp(x), where x is this number.",
        ),
    ] = 0.0


class TrainConfig(Section):
    """Optimisation."""

    later = ("norm_statistics",)

    seed: Annotated[int, Field(ge=0, lt=2**63, description="Random seed.")] = 42
    epochs: Annotated[int, Field(ge=1, description="Maximum number of epochs.")] = 100
    batch_size: Annotated[int, Field(ge=2, description="Number of samples in a batch, over all workers.")] = 64
    micro_batch: Annotated[
        int,
        Field(
            ge=2,
            description="Number of samples in a micro-batch, which one worker computes at a time; `batch_size` is this "
            "number times a power of two, the maximum number of workers.",
        ),
    ] = 16
    optimizer: Annotated[Literal["adam", "adamw"], Field(description="Optimiser.")] = "adamw"
    learning_rate: Annotated[
        float, Field(gt=0, description="Learning rate after the warm-up; from there it falls to 0 along half a cosine.")
    ] = 1e-3
    weight_decay: Annotated[float, Field(ge=0, description="Weight decay.")] = 1e-4
    decay_biases: Annotated[
        bool, Field(description="Whether weight decay also applies to biases and to normalisation layers.")
    ] = True
    label_smoothing: Annotated[
        float, Field(ge=0, lt=1, description="Label smoothing of the training loss; the validation loss has none.")
    ] = 0.0
    ema: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="Decay, for each step, of the exponential moving average of the weights; if it is not 0, the "
            "average is what is validated and kept.",
        ),
    ] = 0.0
    norm_statistics: Annotated[
        Literal["running", "precise"],
        Field(
            description="Statistics of batch norm in the weights that are kept: running (followed while the weights "
            "change), or precise (measured for these weights on up to 10,000 training images)."
        ),
    ] = "running"
    warmup_epochs: Annotated[
        float, Field(ge=0, description="Length of the linear warm-up, in epochs; at most `epochs` / 5.")
    ] = 5.0
    warmup_start: Annotated[float, Field(ge=0, description="Learning rate at the start of the warm-up.")] = 1e-5
    keep: Annotated[
        Literal["best", "last"],
        Field(
            description="Epoch whose weights are kept: best (the lowest validation loss), or last (of all `epochs`; "
            "`patience` does not apply)."
        ),
    ] = "best"
    patience: Annotated[
        int, Field(ge=1, description="Number of epochs without a decrease of `min_gain` before training stops.")
    ] = 10
    min_gain: Annotated[float, Field(ge=0, description="Minimum decrease of the validation loss for `patience`.")] = (
        1e-3
    )
    threads: Annotated[
        int, Field(ge=1, description="CPU threads of each worker; another number may round results differently.")
    ] = 2
    precision: Annotated[
        Literal["float32", "tf32", "bf16"],
        Field(description="Precision: float32, bf16 (autocast), or tf32 (CUDA only)."),
    ] = "float32"
    memory_format: Annotated[
        Literal["auto", "channels_last", "contiguous"],
        Field(
            description="Order of pixels and channels in memory; auto: channels_last on GPUs and on CPUs with AVX-512, "
            "fixed when a run starts. It changes how results are rounded."
        ),
    ] = "auto"
    shuffle_window: Annotated[
        int,
        Field(ge=1, description="Number of samples shuffled together; a larger set is streamed through such windows."),
    ] = 32768

    @model_validator(mode="after")
    def _check_micro_batch(self) -> "TrainConfig":
        count, rest = divmod(self.batch_size, self.micro_batch)
        if rest or count & (count - 1) or not count:
            smaller = self.micro_batch << max(0, count.bit_length() - 1)
            sizes = f"{smaller}" if self.batch_size < smaller else f"{smaller} or {2 * smaller}"
            raise ValueError(
                f"batch_size {self.batch_size} is not micro_batch {self.micro_batch} times a power of two: use "
                f"batch_size {sizes}, or another micro_batch"
            )
        return self

    @property
    def micro_batches(self) -> int:
        """Return the number of micro-batches in a batch, a power of two."""
        return self.batch_size // self.micro_batch

    @property
    def window(self) -> int:
        """Return `shuffle_window`, rounded down to whole batches."""
        return max(1, self.shuffle_window // self.batch_size) * self.batch_size


class OperatingConfig(Section):
    """Operating point, chosen on the validation split after training; the test split is not used."""

    threshold: Annotated[
        Literal["fixed", "youden", "sensitivity", "specificity"],
        Field(
            description="Choice of the operating threshold: fixed (`value`), youden (Youden's index), sensitivity "
            "(the highest threshold that reaches `target` with `confidence`), or specificity (the lowest one)."
        ),
    ] = "fixed"
    value: Annotated[
        float, Field(ge=0, le=1, description="Operating threshold for `fixed`: a tumour is predicted from it upwards.")
    ] = 0.5
    target: Annotated[
        float, Field(gt=0, le=1, description="Sensitivity or specificity to reach, for these two choices.")
    ] = 0.95
    confidence: Annotated[
        float, Field(ge=0.5, lt=1, description="Confidence of the lower bound that has to reach `target`.")
    ] = 0.9
    aggregation: Annotated[
        Literal["auto", "top_mean", "maximum", "mean", "noisy_or"],
        Field(
            description="Probability of a tumour of a scan or patient, from its slices: top_mean (mean of the 3 "
            "highest), maximum, mean or noisy_or; auto: the one with the highest AUROC on validation."
        ),
    ] = "auto"
    temperature: Annotated[bool, Field(description="Whether probabilities are calibrated by temperature scaling.")] = (
        False
    )


class ResourcesConfig(Section):
    """Resources: how fast the work is done, never what it computes."""

    workers: Annotated[
        Annotated[int, Field(ge=1)] | Literal["auto"],
        Field(description="Number of training workers; auto: one for each GPU or, without GPUs, for each node."),
    ] = "auto"
    ray: Annotated[
        Literal["auto", "always"],
        Field(
            description="Whether to train on Ray; auto: not if this machine has the CPUs for all workers, and the "
            "decoded images fit in its memory."
        ),
    ] = "auto"
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        Field(description="Device to train on; auto: cuda if there is a GPU for each worker, otherwise cpu."),
    ] = "auto"
    checkpoint_steps: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Field(description="Steps between checkpoints within an epoch; null: by time only."),
    ] = None
    checkpoint_seconds: Annotated[float, Field(gt=0, description="Seconds between checkpoints within an epoch.")] = (
        300.0
    )
    cpus_per_worker: Annotated[
        float, Field(gt=0, description="CPUs that Ray reserves for each worker; `train.threads` is what torch uses.")
    ] = 1.0
    gpus_per_worker: Annotated[
        float, Field(gt=0, description="GPUs that Ray reserves for each worker, if it uses GPUs.")
    ] = 1.0
    object_store_gib: Annotated[
        Annotated[float, Field(gt=0)] | None,
        Field(description="Size of a local Ray's object store, in GiB; null: Ray's default."),
    ] = None
    spill_gib: Annotated[
        float,
        Field(
            ge=0,
            description="GiB of decoded images that may be written to disk where the object stores are full; a larger "
            "set is decoded again for each window.",
        ),
    ] = 0.0
    shared: Annotated[bool, Field(description="Whether all nodes of a cluster see the same paths.")] = False
    restarts: Annotated[int, Field(ge=0, description="Maximum number of restarts after a worker failed.")] = 3
    allow_other_hardware: Annotated[
        bool,
        Field(
            description="Whether a run may be resumed on other hardware or library versions, which gives other bits "
            "and marks the run."
        ),
    ] = False
    collective_seconds: Annotated[
        int, Field(ge=1, description="Maximum time that a worker waits for another one, in seconds; then all restart.")
    ] = 180


class Config(Section):
    """Everything that defines a run."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    limits: LimitsConfig = LimitsConfig()
    split: SplitConfig = SplitConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    operating: OperatingConfig = OperatingConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @model_validator(mode="after")
    def _check_workers(self) -> "Config":
        workers, train = self.resources.workers, self.train
        if workers != "auto" and train.micro_batches % workers:
            *few, most = [str(2**power) for power in range(train.micro_batches.bit_length())]
            valid = f"{', '.join(few)} or {most}" if few else most
            larger = workers * train.micro_batch
            remedy = f", or batch_size {larger} (another result)" if workers & (workers - 1) == 0 else ""
            raise ValueError(
                f"{workers} workers cannot share the {train.micro_batches} micro-batch(es) of a batch evenly "
                f"(batch_size {train.batch_size}, micro_batch {train.micro_batch}): use {valid} workers{remedy}"
            )
        return self

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of everything that decides the result."""
        sections = [name for name in type(self).model_fields if name != "resources"]
        return fingerprint({name: getattr(self, name).facts() for name in sections})

    def to_yaml(self) -> str:
        """Return the complete configuration as YAML that `load_config` reads."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
