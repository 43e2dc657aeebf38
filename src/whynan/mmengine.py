"""`whynan.mmengine.Watch`: a hook for MMEngine's Runner."""

from typing import Any

from mmengine.hooks import Hook

from whynan.api.trainers import TrainerWatch


class Watch(TrainerWatch, Hook):
    """Watch a Runner's `train`; options are those of `TrainerWatch`.

    runner = Runner(..., custom_hooks=[whynan.mmengine.Watch()])
    """

    def before_train(self, runner: Any) -> None:
        """Know the model's file as the user's code."""
        self._know_class_of(runner.model)

    def after_train(self, runner: Any) -> None:
        """End with `train`: everything is as it was, the report stays."""
        self.close()
