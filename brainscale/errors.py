"""The errors that brainscale raises for a person to read.

BrainscaleError          exit 1: the command failed
├── UsageError           exit 2: the command, an option or the configuration is wrong
├── SourceError          a source is missing, empty or unreadable
├── ManifestError        a manifest cannot be used: labels, classes or splits are missing
├── OutputError          an output folder belongs to other work, or cannot be written
├── FormatError          a table, a model or a folder was written by another version of brainscale
├── BundleError          a model folder is missing, incomplete or altered
├── TrainError           training failed: the loss, a worker or the resources
├── ClusterError         a Ray cluster does not answer, or refuses the work
├── StorageError         an object store does not answer, or refuses access
└── SampleError          one sample cannot be read: it becomes a row with an error code

A message is one line: what is wrong, where, and what to do.
"""

import errno

RERUN = "run the same command again to resume"


class BrainscaleError(Exception):
    """Base class of all errors; the command line prints the message and exits with `exit_code`."""

    exit_code = 1


class UsageError(BrainscaleError):
    """The command, an option or a configuration value is wrong."""

    exit_code = 2


class SourceError(BrainscaleError):
    """A source is missing, empty or unreadable as a whole."""


class ManifestError(BrainscaleError):
    """A manifest cannot be used: it has no labels, only one class, or no such split."""


class OutputError(BrainscaleError):
    """An output folder belongs to other work, or cannot be written."""


class FormatError(BrainscaleError):
    """A table, a model or a folder was written by another version of brainscale."""


class BundleError(BrainscaleError):
    """A model folder is missing, incomplete or does not match its own hashes."""


class TrainError(BrainscaleError):
    """Training cannot start or continue."""


class ClusterError(BrainscaleError):
    """A Ray cluster does not answer, or refuses the work."""


class StorageError(BrainscaleError):
    """An object store does not answer, or refuses access.

    Args:
        text: the message, one line.
        final: whether the store refused, so that another attempt would fail too.
        code: error code of a file that is not read for this reason, one of `ERROR_CODES`.
    """

    def __init__(self, text: str, final: bool = False, code: str = "store_unreachable") -> None:
        super().__init__(text)
        self.final, self.code = final, code


ERROR_CODES = {
    "no_pixels": "skipped: a DICOM object that is not an image, such as a structured report",
    "paired": "skipped: the image (.img) of a NIfTI pair, which is read with its header (.hdr)",
    "empty_archive": "skipped: an archive without files",
    "sidecar": "skipped: a file of the operating system, such as .DS_Store, Thumbs.db or ._NAME",
    "empty_file": "the file has no bytes",
    "empty_image": "the image has no pixels",
    "unsupported_format": "the content is of no supported format",
    "unsupported_transfer_syntax": "a DICOM transfer syntax without a decoder",
    "corrupt": "the decoder cannot read the file",
    "truncated": "fewer bytes than the header declares",
    "corrupt_archive": "an archive that is damaged or cut off; members before the damage have rows of their own",
    "corrupt_member": "a member of an archive that cannot be unpacked",
    "unsupported_compression": "a member of an archive that is compressed by a method without a decoder",
    "encrypted": "a member of an archive that needs a password",
    "not_a_file": "a link, a device or the like",
    "nested_too_deep": "more layers of archives and compression than limits.depth",
    "compression_bomb": "more bytes come out of an archive than limits.ratio allows",
    "too_many_entries": "more entries in an archive than limits.entries allows",
    "file_too_large": "more bytes than limits.file_mib allows",
    "too_many_pixels": "more pixels than limits.pixels or limits.voxels allows",
    "too_many_frames": "more frames than limits.frames allows",
    "decoder_crashed": "the file crashed its decoder",
    "timed_out": "decoding took longer than limits.seconds",
    "out_of_memory": "decoding needed more memory than limits.memory_mib",
    "archived": "the object store keeps the object in an archive tier: it must be restored before it can be read",
    "access_denied": "the object store or the file system does not permit reading the file",
    "changed": "the file is not the one that was listed, or that the manifest describes",
    "gone": "a file or sample that a listing, a manifest or an earlier job names does not exist any more",
    "store_unreachable": "the object store did not answer, or did not accept the credentials",
    "unreadable": "the file cannot be read for another reason, such as a broken link or a defective disk",
    "not_finite": "the model's output is not a number",
}
"""Every code of the column `error_code`, and what it means."""

PASSING = frozenset({"store_unreachable", "changed", "timed_out", "out_of_memory", "decoder_crashed"})
"""Codes of errors that may be gone when the file is read again, as a rerun of `score` does."""
MENDED_IN_PLACE = PASSING | {"access_denied", "archived", "gone", "unreadable"}
"""Codes of errors that may be gone while the file has the same size and time, such as a missing permission."""
FAIL_ABOVE = 0.5
"""Share of samples with an error above which a complete scoring job counts as failed."""


class SampleError(BrainscaleError):
    """One sample cannot be read.

    Args:
        code: stable identifier for tables, such as `truncated`.
        text: the message, one line.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"


def first_line(error: object) -> str:
    """Return the first line of an error's message, or of its cause's message; 300 characters at most."""
    while isinstance(error, BaseException) and error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


REMEDIES = {
    errno.ENOSPC: f"make room and {RERUN}",
    errno.EDQUOT: f"make room and {RERUN}",
    errno.EFBIG: f"raise the limit of file sizes (ulimit -f) and {RERUN}",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a folder that this user can use, or change its permissions",
    errno.EPERM: "choose a folder that this user can use, or change its permissions",
    errno.EMFILE: f"raise the limit of open files (ulimit -n) and {RERUN}",
    errno.ENFILE: f"end other programs and {RERUN}",
    errno.ENOMEM: f"free memory and {RERUN}",
    errno.EIO: f"check the disk and {RERUN}",
    errno.ESTALE: f"mount the file system again and {RERUN}",
}
"""Error of the operating system → what to do about it."""
NO_TEMPORARY_FOLDER = "No usable temporary directory found"
"""Beginning of the message of Python's tempfile where no folder can be written."""


def describe_remedy(error: BaseException) -> str | None:
    """Return what to do about an error of the operating system; None for any other error."""
    if not isinstance(error, OSError):
        return None
    if NO_TEMPORARY_FOLDER in str(error):
        return "set TMPDIR to a folder that can be written and has room"
    return REMEDIES.get(error.errno or 0)
