"""Draw each guarded operation beside the plain one, value and slope: python docs/plot_guarded.py [FOLDER]"""

import math
import sys
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure

from whynan.torch import ops

PLAIN = {
    "log": (torch.log, ops.log, (-1.0, 3.0)),
    "log1p": (torch.log1p, ops.log1p, (-2.0, 3.0)),
    "exp": (torch.exp, ops.exp, (80.0, 95.0)),
    "sqrt": (torch.sqrt, ops.sqrt, (-1.0, 3.0)),
    "pow": (lambda x: torch.pow(x, 0.3), lambda x: ops.pow(x, 0.3), (-1.0, 3.0)),
    "reciprocal": (torch.reciprocal, ops.reciprocal, (-2.0, 2.0)),
    "div": (lambda x: torch.div(1.0, x), lambda x: ops.div(1.0, x, fill=3.0), (-2.0, 2.0)),
    "acos": (torch.acos, ops.acos, (-1.5, 1.5)),
    "asin": (torch.asin, ops.asin, (-1.5, 1.5)),
    "atan2": (lambda x: torch.atan2(torch.zeros_like(x), x), lambda x: ops.atan2(torch.zeros_like(x), x), (-1.0, 1.0)),
    "norm": (
        lambda x: torch.sqrt((torch.stack([x, x], 1) ** 2).sum(1)),
        lambda x: ops.norm(torch.stack([x, x], 1), 1),
        (-1.0, 1.0),
    ),
    "normalize": (
        lambda x: (torch.stack([x, x], 1) / torch.stack([x, x], 1).norm(dim=1, keepdim=True))[:, 0],
        lambda x: ops.normalize(torch.stack([x, x], 1), 1)[:, 0],
        (-1.0, 1.0),
    ),
    "std": (
        lambda x: torch.std(torch.stack([x, -x], 1), 1),
        lambda x: ops.std(torch.stack([x, -x], 1), 1),
        (-1.0, 1.0),
    ),
    "standardize": (
        lambda x: (torch.stack([x, -x], 1) / torch.stack([x, -x], 1).std(1, keepdim=True))[:, 0],
        lambda x: ops.standardize(torch.stack([x, -x], 1), 1)[:, 0],
        (-1.0, 1.0),
    ),
}


def curve(function: object, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    y = function(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), slope


def draw(name: str, folder: Path) -> None:
    plain, part, (low, high) = PLAIN[name]
    x = torch.linspace(low, high, 201)
    figure = Figure(figsize=(6.4, 2.4), layout="constrained")
    for axes, title, index in zip(figure.subplots(1, 2), ("value", "slope"), (0, 1), strict=True):
        ours, theirs = curve(part, x)[index], curve(plain, x)[index]
        axes.plot(x, ours, color="C0", label=f"ops.{name}")
        axes.plot(
            x, torch.where(theirs.isfinite(), theirs, math.nan), color="C1", linestyle="--", label="plain, where finite"
        )
        inside = ours[ours.abs() < 1e3] if name != "exp" else ours
        if len(inside) and name not in ("exp",):
            edge = 1.2 * max(1e-3, float(inside.abs().quantile(0.95)))
            axes.set_ylim(-edge, edge)
        axes.set(title=title, xlabel="x")
    figure.axes[0].legend(frameon=False, fontsize=8)
    # The same file for the same curves: no date and no random names in it.
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "guarded"
    folder.mkdir(parents=True, exist_ok=True)
    matplotlib.rcParams.update({"svg.hashsalt": "whynan", "svg.fonttype": "none"})
    for name in PLAIN:
        draw(name, folder)


if __name__ == "__main__":
    main()
