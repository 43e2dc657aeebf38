"""Attach to a program that has imported torch, and tell the pipeline what it wants to know of the run."""

from collections.abc import Callable

import torch

from whynan.adapters.torch.data import loader
from whynan.adapters.torch.host import TorchHost, device_of
from whynan.launch import host as launch_host
from whynan.launch.options import RunOptions
from whynan.records import Incident


class TorchAdapter:
    """PyTorch's side of a watched run."""

    framework = "torch"

    def __init__(self, options: RunOptions, record: Callable[[Incident], None]) -> None:
        self.host = TorchHost(options, record)
        loader.install()
        self.host.watch.install()
        launch_host.set_host(self.host)

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__}

    def device(self) -> str | None:
        return device_of(self.host.known)

    def n_steps(self) -> int:
        return self.host.watch.n_steps

    def history(self) -> dict[str, tuple[float, ...]]:
        return self.host.watch.history.as_dict()

    def skipped(self) -> tuple[Incident, ...]:
        return tuple(self.host.skipped)

    def pending_incident(self) -> Incident | None:
        return self.host.provisional

    def detach(self) -> None:
        self.host.is_over = True
        self.host.watch.enabled = False
        self.host.watch.uninstall()
        loader.uninstall()
        launch_host.set_host(launch_host.PlainHost())
