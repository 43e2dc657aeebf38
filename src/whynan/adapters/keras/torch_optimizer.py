"""An optimizer of Keras in the shape of one of PyTorch: groups of parameters, hyperparameters, state by parameter."""

from typing import Any

import torch

_HYPERPARAMETERS = {
    "epsilon": "eps", "weight_decay": "weight_decay", "momentum": "momentum", "rho": "alpha", "clipnorm": "clipnorm",
    "global_clipnorm": "global_clipnorm", "clipvalue": "clipvalue",
}  # fmt: skip


class KerasOptimizer:
    """What the watch, its snapshots and its experiments ask of an optimizer. `keras` is the optimizer itself."""

    def __init__(self, optimizer: Any) -> None:
        self.keras = optimizer
        self.param_groups: list[dict[str, Any]] = [_Group(optimizer)]

    @staticmethod
    def of(optimizer: Any) -> "KerasOptimizer":
        """Return the view of an optimizer; its class carries the name of the optimizer's own."""
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        kind = type(type(inner).__name__, (KerasOptimizer,), {})
        made: KerasOptimizer = kind(optimizer)
        return made

    def refresh(self, trainable_variables: Any) -> None:
        """Take the variables and the hyperparameters as they are now."""
        group = self.param_groups[0]
        variables = trainable_variables or getattr(self.keras, "_trainable_variables", ())
        parameters = [variable.value for variable in variables]
        if [id(p) for p in parameters] != [id(p) for p in group["params"]]:
            group["params"] = parameters
        group.refresh()  # type: ignore[attr-defined]

    @property
    def state(self) -> dict[Any, dict[str, Any]]:
        """All of the optimizer's variables, at its first parameter: which belongs to which is Keras' business."""
        parameters = self.param_groups[0]["params"]
        rate = getattr(self.keras, "_learning_rate", None)
        variables = {v.path: v.value for v in self.keras.variables if v is not rate}
        tensors = {path: value for path, value in variables.items() if isinstance(value, torch.Tensor)}
        return {parameters[0]: tensors} if parameters and tensors else {}


class _Group(dict[str, Any]):
    """A group whose hyperparameters, when they are set, are the optimizer's."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__(params=[])
        self._optimizer = optimizer
        self._inner = getattr(optimizer, "inner_optimizer", optimizer)
        self._schedule: Any = None

    def refresh(self) -> None:
        super().__setitem__("lr", float(self._inner.learning_rate))
        for name, key in _HYPERPARAMETERS.items():
            value = getattr(self._inner, name, None)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                super().__setitem__(key, value)
        if hasattr(self._inner, "beta_1"):
            super().__setitem__("betas", (self._inner.beta_1, self._inner.beta_2))

    def __setitem__(self, key: str, value: Any) -> None:
        before = self.get(key)
        super().__setitem__(key, value)
        if value == before if key != "params" else True:
            return
        if key == "lr":
            self._set_rate(float(value))
        for name, other in _HYPERPARAMETERS.items():
            if other == key:
                setattr(self._inner, name, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def _set_rate(self, value: float) -> None:
        rate = self._inner._learning_rate
        if hasattr(rate, "assign"):
            rate.assign(value)
            return
        # A schedule cannot be set: a constant stands in for it until the value is that of the schedule again.
        if self._schedule is None:
            self._schedule = rate
        self._inner._learning_rate = lambda: value
        if value == float(self._schedule(self._inner.iterations)):
            self._inner._learning_rate, self._schedule = self._schedule, None
