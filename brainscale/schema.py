"""Arrow schemas of the tables that brainscale writes; the comment behind each column says what it holds."""

import pyarrow as pa

FORMATS = {
    "manifest": 3,
    "predictions": 3,
    "scans": 2,
    "patients": 1,
    "metrics": 1,
    "subgroups": 1,
    "matched": 1,
    "matched pairs": 1,
    "confusion": 1,
    "header control": 1,
    "history": 2,
    "steps": 1,
    "comparison": 3,
    "paired tests": 2,
    "overlap": 2,
    "heatmaps": 2,
    "results": 1,
    "study models": 1,
    "model": 3,
    "folder": 1,
    "listing": 1,
}
"""Format version of each kind of table, of model.json and of output folders. Any other version is refused."""

SKIPPED = ("no_pixels", "empty_archive", "paired", "sidecar")
"""Error codes of files that are valid but hold no image. Reports count them apart from errors."""
WINDOW_KEY = b"brainscale.window"
"""Metadata key of a manifest: how its windows were chosen, as `window_rule` says it."""
HIDDEN = "hidden"
"""Value of `uri` in a manifest whose paths are hashed."""

_sample = [
    pa.field("sample_id", pa.string(), nullable=False),  # path below the source, then !member and #frame
    pa.field("uri", pa.string(), nullable=False),  # path or address of the file; `hidden` if paths are hashed
    pa.field("member", pa.string()),  # path inside the archive; null for a file outside archives
    pa.field("frame", pa.int32()),  # index in a file with several frames, from 0; null otherwise
]
_acquisition = [
    pa.field("modality", pa.string()),  # DICOM's term for it, such as MR, CT or OT; null if the file does not say
    pa.field("image_kind", pa.string()),  # original, derived, localizer or secondary_capture; null if unknown
    pa.field("orientation", pa.string()),  # axial, coronal, sagittal or oblique; null if unknown
    pa.field("burned_in", pa.bool_()),  # whether the pixels may show text, such as a name; null if unknown
]
WINDOW = [
    pa.field("empty", pa.bool_()),  # whether the slice shows almost nothing; training and per-scan results leave it out
    pa.field("slice_index", pa.int32()),  # number of the slice in its series or volume, from 0; null where unknown
    pa.field("window_low", pa.float64()),  # intensity that became 0; null where no window was chosen
    pa.field("window_high", pa.float64()),  # intensity that became 255
    pa.field("window_of", pa.string()),  # what the window was chosen from: volume, or slice for one without others
]
_failure = [
    pa.field("error_code", pa.string()),  # stable identifier of the error; null if the sample was read
    pa.field("error", pa.string()),  # error message, one line
]

MANIFEST = pa.schema(
    [
        *_sample,
        pa.field("format", pa.string()),  # file format by content: JPEG, PNG, DICOM, NIfTI, …
        pa.field("mode", pa.string()),  # how the file stores pixels, such as RGB or MONOCHROME2 12
        pa.field("width", pa.int32()),  # width of the image in pixels, after EXIF orientation
        pa.field("height", pa.int32()),  # height of the image in pixels, after EXIF orientation
        pa.field("nbytes", pa.int64()),  # size of the encoded file or member in bytes
        pa.field("sha256", pa.string()),  # SHA-256 of the encoded bytes
        pa.field("phash", pa.string()),  # hash of the whole image, 64 bits as 16 hex digits; null without contrast
        pa.field("head_phash", pa.string()),  # hash of the head without margins, the same way
        pa.field("signature", pa.binary()),  # the head in 16 × 16 bytes, to confirm near duplicates; null if left out
        *WINDOW,
        *_acquisition,
        pa.field("image_type", pa.string()),  # the standard values of DICOM's ImageType, joined by backslashes
        pa.field("scanning_sequence", pa.string()),  # SE, IR, GR, EP, RM, joined by backslashes; null if unknown
        pa.field("repetition_time", pa.float64()),  # repetition time in ms
        pa.field("echo_time", pa.float64()),  # echo time in ms
        pa.field("inversion_time", pa.float64()),  # inversion time in ms
        pa.field("field_strength", pa.float64()),  # field strength in tesla
        pa.field("contrast", pa.bool_()),  # whether a contrast agent was given; null if unknown
        pa.field("label", pa.string()),  # class name; null if unknown
        pa.field("patient", pa.string()),  # keyed hash of the patient's identifier, never the identifier itself
        pa.field("scan", pa.string()),  # keyed hash of the DICOM series
        pa.field("group", pa.string()),  # group of samples that a split must keep together
        pa.field("left_out", pa.string()),  # why training left the sample out; null if it did not, or was not yet run
        pa.field("split", pa.string()),  # train, val or test; null if not assigned
        pa.field("fold", pa.int32()),  # cross-validation fold, from 0; null if not assigned
        *_failure,
    ]
)

PREDICTIONS = pa.schema(
    [
        *_sample,
        pa.field("sha256", pa.string()),  # SHA-256 of the encoded bytes
        pa.field("scan", pa.string()),  # DICOM series: sample_id of its first slice; a keyed hash where a key was given
        pa.field("patient", pa.string()),  # keyed hash of the patient, with a key or from a manifest; null otherwise
        *_acquisition,
        *WINDOW,
        pa.field("label", pa.string()),  # true class; null if unknown
        pa.field("prediction", pa.string()),  # predicted class at the operating threshold
        pa.field("probability", pa.float32()),  # probability of a tumour: 1 − P(first class)
        pa.field("probabilities", pa.list_(pa.float32())),  # probability of each class, in the model's order
        pa.field("novelty", pa.float32()),  # share of the validation samples that are more usual; null if not computed
        pa.field("model", pa.string(), nullable=False),  # SHA-256 of the weights
        *_failure,
    ]
)

_unit = [
    pa.field("model", pa.string(), nullable=False),  # SHA-256 of the weights
    pa.field("slices", pa.int64(), nullable=False),  # number of scored slices that are not empty
    pa.field("empty", pa.int64(), nullable=False),  # number of empty slices, which are left out
    pa.field("errors", pa.int64(), nullable=False),  # number of slices that could not be read or scored
    pa.field("top_mean", pa.float64()),  # mean of the three highest probabilities of a tumour; null without slices
    pa.field("maximum", pa.float64()),  # highest probability of a tumour of any slice
    pa.field("mean", pa.float64()),  # mean probability of a tumour over the slices
    pa.field("noisy_or", pa.float64()),  # 1 − Π(1 − p) over the slices
    pa.field("aggregation", pa.string(), nullable=False),  # which of these four the next two columns are made from
    pa.field("probability", pa.float64()),  # probability of a tumour; null without slices
    pa.field("probabilities", pa.list_(pa.float64())),  # probability of each class, in the model's order
    pa.field("threshold", pa.float64()),  # operating threshold; null where the model has none for this unit
    pa.field("prediction", pa.string()),  # predicted class at that threshold; null without slices or threshold
    pa.field("novelty", pa.float64()),  # highest novelty of the slices that are not empty; null without one
    pa.field("label", pa.string()),  # true class: a tumour where any slice has one; null if unknown
    pa.field("group", pa.string()),  # group of units that are not independent, of `evaluate`; null otherwise
    pa.field("sample_id", pa.string(), nullable=False),  # slice with the highest probability, or the first sample
]

SCANS = pa.schema(
    [
        pa.field("scan", pa.string(), nullable=False),  # DICOM series; or the volume's sample_id; or the sample itself
        *_unit,
    ]
)

PATIENTS = pa.schema(
    [
        pa.field("patient", pa.string(), nullable=False),  # keyed hash of the patient's identifier
        *_unit,
    ]
)

METRICS = pa.schema(
    [
        pa.field("metric", pa.string(), nullable=False),  # name of the metric
        pa.field("value", pa.float64()),  # value; null with a reason if it is not defined
        pa.field("low", pa.float64()),  # lower end of the 95 % confidence interval
        pa.field("high", pa.float64()),  # upper end of the 95 % confidence interval
        pa.field("method", pa.string()),  # method of the interval
        pa.field("n", pa.int64(), nullable=False),  # number of samples that the metric is computed from
        pa.field("reason", pa.string()),  # why the value or interval is missing, or what the interval leaves out
    ]
)

CONFUSION = pa.schema(
    [
        pa.field("label", pa.string(), nullable=False),  # true class
        pa.field("prediction", pa.string(), nullable=False),  # predicted class at the operating threshold
        pa.field("samples", pa.int64(), nullable=False),  # number of samples, from 0
    ]
)

HEADER_VOTES = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),  # sample_id of the manifest
        pa.field("class_index", pa.int64(), nullable=False),  # number of the true class, from 0
        pa.field("group_code", pa.int64(), nullable=False),  # number of the sample's group
        pa.field("probabilities", pa.list_(pa.float64()), nullable=False),  # by class, from file headers alone
    ]
)

HISTORY = pa.schema(
    [
        pa.field("epoch", pa.int32(), nullable=False),  # epoch, from 1
        pa.field("learning_rate", pa.float64(), nullable=False),  # learning rate at the last step of the epoch
        pa.field("train_loss", pa.float64(), nullable=False),  # mean training loss per sample, with augmentation
        pa.field("train_accuracy", pa.float64(), nullable=False),  # training accuracy, with augmentation
        pa.field("val_loss", pa.float64(), nullable=False),  # mean validation loss per sample
        pa.field("val_accuracy", pa.float64(), nullable=False),  # validation accuracy
        pa.field("best", pa.bool_(), nullable=False),  # whether these weights are the best so far, or kept as the last
        pa.field("weights_sha256", pa.string(), nullable=False),  # SHA-256 of the weights at the end of the epoch
        pa.field("hardware", pa.string(), nullable=False),  # processor and versions; " then " between two in one epoch
    ]
)

STEPS = pa.schema(
    [
        pa.field("epoch", pa.int32(), nullable=False),  # epoch, from 1
        pa.field("step", pa.int32(), nullable=False),  # step of the epoch, from 1
        pa.field("learning_rate", pa.float64(), nullable=False),  # learning rate of the step
        pa.field("samples", pa.int32(), nullable=False),  # number of samples in the batch
        pa.field("loss_sum", pa.float64(), nullable=False),  # sum of the training loss over the batch
        pa.field("correct", pa.int32(), nullable=False),  # number of samples in the batch classified correctly
        pa.field("weights", pa.list_(pa.int64()), nullable=False),  # fingerprint of each tensor after the step
    ]
)

PUBLISHED = ("accuracy", "auroc", "sensitivity", "specificity", "macro_precision", "macro_recall")
"""Metrics of the published result table, in its order."""
PUBLISHED_MULTICLASS = (
    *("accuracy", "macro_auroc", "tumour_auroc", "tumour_sensitivity", "tumour_specificity"),
    *("macro_precision", "macro_recall"),
)
"""The same for models with more than two classes."""

COMPARISON = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),  # name of the network, or of the header-only control
        pa.field("run", pa.string(), nullable=False),  # folder of the run
        pa.field("classes", pa.int64(), nullable=False),  # number of classes
        pa.field("unit", pa.string(), nullable=False),  # what is decided on: slice, scan or patient
        *[
            field
            for name in dict.fromkeys((*PUBLISHED, *PUBLISHED_MULTICLASS))
            for field in (
                pa.field(name, pa.float64()),  # value of the metric; null if models of so many classes do not have it
                pa.field(f"{name}_low", pa.float64()),  # lower end of its 95 % confidence interval
                pa.field(f"{name}_high", pa.float64()),  # upper end of its 95 % confidence interval
            )
        ],
        pa.field("n", pa.int64(), nullable=False),  # number of test samples, scans or patients
        pa.field("parameters", pa.int64()),  # number of trainable parameters; null for the header-only control
        pa.field("flops", pa.int64()),  # floating-point operations for one image
        pa.field("images_per_second", pa.float64()),  # images per second of the evaluation, including its start
        pa.field("weights_sha256", pa.string()),  # SHA-256 of the weights
        pa.field("samples_sha256", pa.string(), nullable=False),  # fingerprint of the samples that it was evaluated on
        pa.field("degenerate", pa.string()),  # sentence: the model predicts one class or one score; null if it does not
        pa.field("model_edited", pa.bool_()),  # whether model.json was edited after training; null for the control
        pa.field("matched_on", pa.string()),  # columns that the samples were matched on in pairs; null if all count
        pa.field("not_comparable", pa.string()),  # why the rows of this table cannot be compared; null if they can
    ]
)

PAIRS = pa.schema(
    [
        pa.field("a", pa.string(), nullable=False),  # first model
        pa.field("b", pa.string(), nullable=False),  # second model
        pa.field("n", pa.int64(), nullable=False),  # number of samples that both models scored
        pa.field("auroc_a", pa.float64()),  # AUROC of the first model: any tumour against none
        pa.field("auroc_b", pa.float64()),  # AUROC of the second model: any tumour against none
        pa.field("difference", pa.float64()),  # difference of the AUROCs, a − b
        pa.field("low", pa.float64()),  # lower end of its 95 % confidence interval (DeLong)
        pa.field("high", pa.float64()),  # upper end of its 95 % confidence interval (DeLong)
        pa.field("p", pa.float64()),  # p-value of DeLong's test, two-sided
        pa.field("p_holm", pa.float64()),  # the same, adjusted for all pairs of the table (Holm)
        pa.field("only_a", pa.int64(), nullable=False),  # number of samples that only the first classified correctly
        pa.field("only_b", pa.int64(), nullable=False),  # number of samples that only the second classified correctly
        pa.field("mcnemar_p", pa.float64(), nullable=False),  # p-value of McNemar's exact test by group, two-sided
        pa.field("mcnemar_p_holm", pa.float64(), nullable=False),  # the same, adjusted for all pairs (Holm)
        pa.field("reason", pa.string()),  # why a value is missing
        pa.field("not_comparable", pa.string()),  # why the models cannot be compared; null if they can
    ]
)

SUBGROUPS = pa.schema(
    [
        pa.field("column", pa.string(), nullable=False),  # column of the manifest that defines the subgroups
        pa.field("subgroup", pa.string()),  # value of the column, or range of a numeric column; null if unknown
        pa.field("samples", pa.int64(), nullable=False),  # number of samples in the subgroup
        pa.field("metric", pa.string(), nullable=False),  # name of the metric
        pa.field("value", pa.float64()),  # value of the metric; null with a reason if undefined or the subgroup small
        pa.field("low", pa.float64()),  # lower end of the 95 % confidence interval
        pa.field("high", pa.float64()),  # upper end of the 95 % confidence interval
        pa.field("method", pa.string()),  # method of the interval
        pa.field("n", pa.int64(), nullable=False),  # number of samples that the metric is computed from
        pa.field("reason", pa.string()),  # why the value or interval is missing, or what the interval leaves out
    ]
)

MATCHED = pa.schema(
    [
        pa.field("predictions", pa.string(), nullable=False),  # model, the matched columns alone, or their difference
        pa.field("samples", pa.string(), nullable=False),  # matched: samples in pairs; or all
        *METRICS,
    ]
)

MATCHED_PAIRS = pa.schema(
    [
        pa.field("with_tumour", pa.string(), nullable=False),  # sample_id of the sample with a tumour
        pa.field("without_tumour", pa.string(), nullable=False),  # sample_id of its partner without
        pa.field("stratum", pa.string()),  # their value of the matched columns of texts; null without such a column
        pa.field("value_with_tumour", pa.float64()),  # value of the matched column of numbers; null without one
        pa.field("value_without_tumour", pa.float64()),  # the same of the partner
        pa.field("same_group", pa.bool_(), nullable=False),  # whether both are of one group, such as a patient
    ]
)

RESULTS = pa.schema(
    [
        pa.field("study", pa.string(), nullable=False),  # name of the study
        pa.field("part", pa.string()),  # name of the part; null for facts of a data set
        pa.field("row", pa.string(), nullable=False),  # name of the row, or of the data set
        pa.field("condition", pa.string(), nullable=False),  # protocol, or share of the training data; else empty
        pa.field("subset", pa.string(), nullable=False),  # samples: all, or some of them, such as without_doubtful
        pa.field("measure", pa.string(), nullable=False),  # metric, difference, published, fact or control
        pa.field("metric", pa.string(), nullable=False),  # name of the metric or fact
        pa.field("reference", pa.string()),  # what a difference is against: a row, or a condition of the same row
        pa.field("value", pa.float64()),  # value; null with a reason if it is not defined
        pa.field("low", pa.float64()),  # lower end of the 95 % confidence interval
        pa.field("high", pa.float64()),  # upper end of the 95 % confidence interval
        pa.field("p", pa.float64()),  # two-sided p-value of a difference
        pa.field("p_holm", pa.float64()),  # the same, adjusted for the differences of one metric in a part (Holm)
        pa.field("method", pa.string()),  # method of the interval
        pa.field("reason", pa.string()),  # why the value or interval is missing
        pa.field("n", pa.int64()),  # number of predictions behind a metric
        pa.field("groups", pa.int64()),  # number of groups among them
        pa.field("models", pa.int64()),  # number of models behind a metric
        pa.field("text", pa.string()),  # a fact that is no number
        pa.field("config_sha256", pa.string()),  # fingerprint of a row's configuration, of its first seed
        pa.field("manifest_sha256", pa.string()),  # fingerprint of the samples and splits of its models
        pa.field("seeds", pa.list_(pa.int64())),  # training seeds of its models
        pa.field("weights_sha256", pa.list_(pa.string())),  # SHA-256 of their weights, or of given predictions
    ]
)

STUDY_MODELS = pa.schema(
    [
        pa.field("identity", pa.string(), nullable=False),  # hash of all that decides the predictions
        pa.field("study", pa.string(), nullable=False),  # name of the study
        pa.field("part", pa.string(), nullable=False),  # name of the part; the first of several that share the model
        pa.field("row", pa.string(), nullable=False),  # name of the row
        pa.field("condition", pa.string(), nullable=False),  # protocol, or share of the training data; else empty
        pa.field("seed", pa.int64(), nullable=False),  # training seed
        pa.field("repeat", pa.int32(), nullable=False),  # number of the division, from 1
        pa.field("fold", pa.int32(), nullable=False),  # fold that was tested, from 0
        pa.field("config_sha256", pa.string(), nullable=False),  # fingerprint of the configuration
        pa.field("weights_sha256", pa.string()),  # SHA-256 of the weights; null for a baseline
        pa.field("epochs", pa.int64()),  # epochs trained; null for a baseline
        pa.field("parameters", pa.int64()),  # number of weights; null for a baseline
        pa.field("hardware", pa.list_(pa.string()), nullable=False),  # processor and versions of each start
        pa.field("seconds", pa.float64(), nullable=False),  # seconds that it ran, without pauses
        pa.field("cpu_seconds", pa.float64(), nullable=False),  # CPU time
        pa.field("paused_seconds", pa.float64(), nullable=False),  # seconds that it was paused
        pa.field("starts", pa.int64(), nullable=False),  # how often it was started
        pa.field("threads", pa.int64(), nullable=False),  # CPU threads that it computed with
        pa.field("processor", pa.string(), nullable=False),  # name of the processor
        pa.field("threshold", pa.float64(), nullable=False),  # probability from which on a tumour is predicted
        pa.field("sample_ids", pa.list_(pa.string()), nullable=False),  # names of the test samples, as in the index
        pa.field("probabilities", pa.list_(pa.float32()), nullable=False),  # their probabilities of a tumour
    ]
)
"""Schema of models.parquet, in which a study releases the predictions of its models: each model once."""
