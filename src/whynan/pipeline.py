"""A run is watched, replayed, traced, sliced, diagnosed and reported."""

from whynan.launch.options import RunOptions


class Session:
    """One watched run."""

    def __init__(self, options: RunOptions) -> None:
        self.options = options

    def finish(self, exit: BaseException | None) -> int | None:
        """End the watching. Returns the exit status where it isn't the script's own."""
        return None


def start(options: RunOptions) -> Session:
    """Begin to watch; called before the user's program runs."""
    return Session(options)
