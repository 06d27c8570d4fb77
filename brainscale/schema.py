"""Arrow schemas of every table that brainscale writes, and what each column means."""

import pyarrow as pa

FORMATS = {
    "manifest": 1,
    "predictions": 1,
    "scans": 1,
    "metrics": 1,
    "subgroups": 1,
    "history": 1,
    "steps": 1,
    "comparison": 1,
    "paired tests": 1,
    "overlap": 1,
    "heatmaps": 1,
    "model": 1,
    "folder": 1,
}
"""Version of each kind of table, of model.json, and of output folders; any other version is refused."""

SKIPPED = ("no_pixels", "empty_archive")
"""Codes of what is in order and yet no image: reports count it apart from errors."""
HIDDEN = "hidden"
"""The uri of a sample whose paths are hashed."""

_sample = [
    pa.field("sample_id", pa.string(), nullable=False),  # path below the source, !member, #frame
    pa.field("uri", pa.string(), nullable=False),  # where the bytes are: a local path or an address; or `hidden`
    pa.field("member", pa.string()),  # inside an archive
    pa.field("frame", pa.int32()),  # of a multi-frame file
]
_failure = [
    pa.field("error_code", pa.string()),  # stable identifier; null when the sample was read
    pa.field("error", pa.string()),  # one line for a person
]

MANIFEST = pa.schema(
    [
        *_sample,
        pa.field("format", pa.string()),  # by content: JPEG, PNG, DICOM, NIfTI …
        pa.field("mode", pa.string()),  # how the file stores a pixel, such as RGB or MONOCHROME2 12
        pa.field("width", pa.int32()),  # pixels, as shown (after orientation)
        pa.field("height", pa.int32()),
        pa.field("nbytes", pa.int64()),  # encoded
        pa.field("sha256", pa.string()),  # of the encoded bytes
        pa.field("phash", pa.string()),  # perceptual hash, 64 bits in 16 digits; null without contrast
        pa.field("empty", pa.bool_()),  # a slice that shows next to nothing: training leaves it out
        pa.field("label", pa.string()),  # class name
        pa.field("patient", pa.string()),  # keyed hash, never the identifier
        pa.field("scan", pa.string()),  # keyed hash of the DICOM series
        pa.field("group", pa.string()),  # samples that must stay on one side of a split
        pa.field("split", pa.string()),  # train, val or test
        pa.field("fold", pa.int32()),
        *_failure,
    ]
)

PREDICTIONS = pa.schema(
    [
        *_sample,
        pa.field("sha256", pa.string()),
        pa.field("scan", pa.string()),  # keyed hash of the DICOM series
        pa.field("empty", pa.bool_()),  # a slice that shows next to nothing: scans are judged without it
        pa.field("label", pa.string()),  # the known class, where there is one
        pa.field("prediction", pa.string()),  # the class at the operating threshold
        pa.field("probability", pa.float32()),  # of a tumour: 1 − P(first class)
        pa.field("probabilities", pa.list_(pa.float32())),  # one for each class, in the bundle's order
        pa.field("model", pa.string(), nullable=False),  # sha256 of the weights
        *_failure,
    ]
)

SCANS = pa.schema(
    [
        pa.field("scan", pa.string(), nullable=False),  # keyed hash of a series, else the volume's sample id
        pa.field("model", pa.string(), nullable=False),  # sha256 of the weights
        pa.field("slices", pa.int64(), nullable=False),  # scored and not empty: what the figures rest on
        pa.field("empty", pa.int64(), nullable=False),
        pa.field("errors", pa.int64(), nullable=False),
        pa.field("highest", pa.float64()),  # probability of a tumour; null without a slice
        pa.field("mean", pa.float64()),
        pa.field("top_mean", pa.float64()),  # of the highest few: brainscale.scoring.per_scan.TOP
        pa.field("prediction", pa.string()),  # the highest slice's class
        pa.field("sample_id", pa.string(), nullable=False),  # the highest slice, or the first of the rows
    ]
)

METRICS = pa.schema(
    [
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64()),  # null with a reason where it is not defined
        pa.field("low", pa.float64()),  # 95 % interval
        pa.field("high", pa.float64()),
        pa.field("method", pa.string()),  # how the interval was made
        pa.field("n", pa.int64(), nullable=False),  # samples the figure rests on
        pa.field("reason", pa.string()),  # why a value or an interval is absent, or what the interval leaves out
    ]
)

HISTORY = pa.schema(
    [
        pa.field("epoch", pa.int32(), nullable=False),  # from 1
        pa.field("learning_rate", pa.float64(), nullable=False),  # at the epoch's last step
        pa.field("train_loss", pa.float64(), nullable=False),  # mean over samples, as trained
        pa.field("train_accuracy", pa.float64(), nullable=False),
        pa.field("val_loss", pa.float64(), nullable=False),
        pa.field("val_accuracy", pa.float64(), nullable=False),
        pa.field("best", pa.bool_(), nullable=False),  # lowest validation loss so far
        pa.field("weights_sha256", pa.string(), nullable=False),  # at the epoch's end
    ]
)

STEPS = pa.schema(
    [
        pa.field("epoch", pa.int32(), nullable=False),  # from 1
        pa.field("step", pa.int32(), nullable=False),  # of the epoch, from 1
        pa.field("learning_rate", pa.float64(), nullable=False),
        pa.field("samples", pa.int32(), nullable=False),  # in the batch
        pa.field("loss_sum", pa.float64(), nullable=False),  # over the samples, as trained
        pa.field("correct", pa.int32(), nullable=False),  # of them
        pa.field("weights", pa.list_(pa.int64()), nullable=False),  # after the step: a fingerprint of each tensor
    ]
)

PUBLISHED = ("accuracy", "auroc", "sensitivity", "specificity", "macro_precision", "macro_recall")
"""Metrics of the published table, in its order."""

COMPARISON = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("run", pa.string(), nullable=False),
        *[
            field
            for name in PUBLISHED
            for field in (
                pa.field(name, pa.float64()),
                pa.field(f"{name}_low", pa.float64()),  # 95 % interval
                pa.field(f"{name}_high", pa.float64()),
            )
        ],
        pa.field("n", pa.int64(), nullable=False),
        pa.field("parameters", pa.int64()),  # null for the header-only control
        pa.field("flops", pa.int64()),  # of one image
        pa.field("images_per_second", pa.float64()),  # as evaluated, start included
        pa.field("weights_sha256", pa.string()),
    ]
)

PAIRS = pa.schema(
    [
        pa.field("a", pa.string(), nullable=False),
        pa.field("b", pa.string(), nullable=False),
        pa.field("n", pa.int64(), nullable=False),
        pa.field("auroc_a", pa.float64()),  # a tumour of any kind against none
        pa.field("auroc_b", pa.float64()),
        pa.field("difference", pa.float64()),  # of the AUROCs, a − b
        pa.field("low", pa.float64()),  # 95 % interval of the difference, DeLong
        pa.field("high", pa.float64()),
        pa.field("p", pa.float64()),  # DeLong's test, two-sided
        pa.field("p_holm", pa.float64()),  # adjusted for all pairs of the table
        pa.field("only_a", pa.int64(), nullable=False),  # samples that a alone called rightly
        pa.field("only_b", pa.int64(), nullable=False),
        pa.field("mcnemar_p", pa.float64(), nullable=False),  # exact, two-sided, by group
        pa.field("mcnemar_p_holm", pa.float64(), nullable=False),
        pa.field("reason", pa.string()),  # why a value is absent
    ]
)

SUBGROUPS = pa.schema(
    [
        pa.field("column", pa.string(), nullable=False),
        pa.field("value", pa.string()),  # of the column, or the third of a numeric one; null where it is not known
        pa.field("samples", pa.int64(), nullable=False),  # of the subgroup
        pa.field("metric", pa.string(), nullable=False),
        pa.field("figure", pa.float64()),  # null with a reason where it is not defined, or the subgroup too small
        *[METRICS.field(name) for name in ("low", "high", "method", "n", "reason")],
    ]
)
