"""A watch that no job stands behind."""


class Single:
    """What a watch asks of its ranks, where there are none."""

    is_joint = False
    agreed = False
    look_at_all = False

    def before_backward(self, look_is_due: bool) -> None:
        """Nobody is to be told."""

    def before_update(self) -> None:
        """Nobody is to be asked."""

    def before_sharded_update(self) -> None:
        """Nobody has the other parts of the parameters."""

    def step_is_over(self) -> None:
        """Nothing has been agreed on."""
