from whynan.data.finding import Check


class WorkerCrashed(Check):
    """Reading this file ends the whole process (a fault in a decoder, or too little memory): a training ends with
    it."""

    title = "file that makes its decoder crash"
    severity = "error"
    cause = "bad-input-values"
