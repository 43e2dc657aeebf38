"""Errors that whynan tells its user about; each has a slug that leads to its explanation in the documentation."""


class WhynanError(Exception):
    """Base of all errors that a user of whynan may meet.

    A message says what happened, the value that did it, and what to do next.
    """

    slug = "whynan-error"


class UsageError(WhynanError):
    """The command line or an argument cannot be used as given."""

    slug = "usage"


class NoScriptError(WhynanError):
    """The script or module to run is not there or is not Python."""

    slug = "no-script"


class OutputError(WhynanError):
    """A report cannot be written where it was asked for."""

    slug = "output"


class ReportError(WhynanError):
    """A saved report cannot be read."""

    slug = "bad-report"


class CapsuleError(WhynanError):
    """A capsule cannot be read, or is not of the script that it is replayed in."""

    slug = "capsule"


class WitnessError(WhynanError):
    """A witness of `whynan check` that cannot be read, or does not fit the script."""

    slug = "witness"
