"""Every error that brainscale means a person to read.

BrainscaleError          exit 1: the work failed
├── UsageError           exit 2: the command or the configuration is wrong
├── SourceError          a source is missing, empty or unreadable
├── ManifestError        a manifest cannot serve the purpose: labels, classes, splits
├── OutputError          an output folder holds something else, or cannot be written
├── FormatError          a table, a model or a folder was written by another version of brainscale
├── BundleError          a model folder is missing, incomplete or altered
├── TrainError           training stopped: the loss, a worker, the resources
├── ClusterError         a cluster does not answer, or refused
├── StorageError         an object store does not answer, or refused
└── SampleError          one sample cannot be read: it becomes a row, never an exception to the user

A message says what is wrong, where, and what to do, in one line.
"""

RERUN = "run the same command again to resume"


class BrainscaleError(Exception):
    """Root of the tree; the command line prints its text and leaves with `exit_code`."""

    exit_code = 1


class UsageError(BrainscaleError):
    """The command, an option or a configuration value is wrong."""

    exit_code = 2


class SourceError(BrainscaleError):
    """A source is missing, empty or unreadable as a whole."""


class ManifestError(BrainscaleError):
    """A manifest cannot serve: no labels, one class, no such split."""


class OutputError(BrainscaleError):
    """An output folder holds another work's results, or cannot be written."""


class FormatError(BrainscaleError):
    """A table, a model or a folder was written by another version of brainscale."""


class BundleError(BrainscaleError):
    """A model folder is missing, incomplete or does not match its own hashes."""


class TrainError(BrainscaleError):
    """Training cannot start or go on."""


class ClusterError(BrainscaleError):
    """A cluster does not answer, or does not accept the job."""


class StorageError(BrainscaleError):
    """An object store does not answer, or refuses.

    Args:
        text: one line for a person.
        final: whether it refused, so that asking again is of no use.
    """

    def __init__(self, text: str, final: bool = False) -> None:
        super().__init__(text)
        self.final = final


class SampleError(BrainscaleError):
    """One sample cannot be read.

    Args:
        code: stable identifier for tables, such as `truncated`.
        text: one line for a person.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"


def first_line(error: object) -> str:
    """What an error says, or the error that caused it, in one line; 300 characters at most."""
    while isinstance(error, BaseException) and error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
