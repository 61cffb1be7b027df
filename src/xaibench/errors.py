"""Every error that a user can cause, each with the exit code of its kind.

The sentence form is ``{argument} must {rule}, got {value}; {remedy}``. Arguments of Python calls raise ``ValueError`` or ``TypeError``;
what depends on files, weights, plugins or the state of a run raises one of these, printed without a traceback by the command line.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process returns; one code per kind of ending, so that a gate can tell them apart."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    UNITS_FAILED = 3
    REGRESSION = 4
    NOTHING_MEASURED = 5
    SUBMISSION_INVALID = 6
    ISOLATION_UNAVAILABLE = 7
    DATA_MISMATCH = 8
    NOT_COMPARABLE = 9
    INTERRUPTED = 130


class XaibenchError(Exception):
    """Base of all errors that are the user's to mend; the message is one sentence that ends with the remedy."""

    exit_code = ExitCode.USAGE


class UnknownNameError(XaibenchError):
    """No plugin bears this name."""


class PluginError(XaibenchError):
    """A plugin could not be imported, or breaks its contract."""


class AudioError(XaibenchError):
    """A recording cannot be read or used."""


class PairError(XaibenchError):
    """Two recordings are not the twins of each other."""


class DataError(XaibenchError):
    """A corpus is missing or incomplete."""


class DataMismatchError(DataError):
    """Data are present but are not the data that the list names."""

    exit_code = ExitCode.DATA_MISMATCH


class WeightsError(XaibenchError):
    """Weights are missing, unsafe to load, or belong to another model."""


class MissingExtraError(XaibenchError):
    """An optional dependency is not installed; the message holds the pip command."""


class RunError(XaibenchError):
    """A run folder cannot be created, locked, read or resumed."""


class UnitsFailedError(XaibenchError):
    """More units failed than the run allows."""

    exit_code = ExitCode.UNITS_FAILED


class RegressionError(XaibenchError):
    """A run is worse than its baseline by a rule of the gate."""

    exit_code = ExitCode.REGRESSION


class NotComparableError(XaibenchError):
    """Two runs answer different questions: another protocol, other clips, another detector."""

    exit_code = ExitCode.NOT_COMPARABLE


class NothingMeasuredError(XaibenchError):
    """The command ended without a single measured unit."""

    exit_code = ExitCode.NOTHING_MEASURED


class SubmissionError(XaibenchError):
    """A submitted package breaks a rule, or is not what it says."""

    exit_code = ExitCode.SUBMISSION_INVALID


class IsolationError(XaibenchError):
    """Untrusted code cannot be shut in well enough on this machine."""

    exit_code = ExitCode.ISOLATION_UNAVAILABLE


class NotApplicableError(XaibenchError):
    """The explainer cannot explain this detector; the message is its reason."""
