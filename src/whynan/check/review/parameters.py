"""Remarks on layers, their parameters, and the optimizer that changes them."""

import math
from collections.abc import Iterator

from whynan.check.context import Context
from whynan.check.graph import SMALLEST, Node
from whynan.check.review import StepFacts, finding, relevant, remark
from whynan.check.suspects import Finding, Severity

_RELUS = ("ReLU", "ReLU6")

_FEW = 4


@remark
def gradient_scale(facts: StepFacts) -> Iterator[Finding]:
    """The first gradient against the weights that it changes."""
    for optimizer in facts.optimizers:
        rate = max(optimizer.rates, default=0.0)
        if math.isnan(optimizer.gradient_norm) and not optimizer.n_parameters:
            continue  # not known
        if not math.isfinite(optimizer.gradient_norm):
            yield finding(
                "gradient-scale",
                "error",
                f"the first gradient is {optimizer.gradient_norm}",
                optimizer,
            )
        elif not optimizer.rates and optimizer.weight_norm > 0:
            ratio = optimizer.gradient_norm / optimizer.weight_norm
            if ratio > 0.5:
                yield finding(
                    "gradient-scale",
                    "warning",
                    f"an update of the first steps is {ratio:.2g} of the weights: it is {optimizer.gradient_norm:.3g} "
                    f"in size, the weights {optimizer.weight_norm:.3g}",
                    optimizer,
                    value=f"{ratio:.3g}",
                    cause="learning-rate-too-high",
                )
        elif optimizer.kind == "SGD" and optimizer.weight_norm > 0:
            ratio = rate * optimizer.gradient_norm / optimizer.weight_norm
            if ratio > 0.5:
                yield finding(
                    "gradient-scale",
                    "warning",
                    f"the first update is {ratio:.2g} of the weights: learning rate {rate:g} times gradient norm "
                    f"{optimizer.gradient_norm:.3g}, weights' norm {optimizer.weight_norm:.3g}",
                    optimizer,
                    value=f"{ratio:.3g}",
                    cause="learning-rate-too-high",
                )
        if optimizer.n_parameters and optimizer.gradient_norm == 0:
            yield finding(
                "gradient-scale",
                "warning",
                "the first gradient is 0: nothing is learned",
                optimizer,
            )


@remark
def learning_rate(facts: StepFacts) -> Iterator[Finding]:
    """One step of the configured length, of a tenth and a hundredth of it, tried on the recorded batch."""
    if len(facts.rate_test) < 3 or not facts.optimizers:
        return
    (_, start), *tried = facts.rate_test
    rate, loss = tried[-1]
    better = [r for r, value in tried[:-1] if math.isfinite(value) and value < start]
    if (not math.isfinite(loss) or loss > 2 * abs(start) + 1e-3) and better:
        yield finding(
            "learning-rate",
            "warning",
            f"one step of learning rate {rate:g} takes this batch's loss from {start:.3g} to {loss:.3g}; with "
            f"{better[-1]:g} it falls"
            if facts.optimizers[0].rates
            else f"one step takes this batch's loss from {start:.3g} to {loss:.3g}; {better[-1]:g} of it lowers it",
            facts.optimizers[0],
            value=f"{rate:g}",
            cause="learning-rate-too-high",
        )


@remark
def optimizer_epsilon(facts: StepFacts) -> Iterator[Finding]:
    """The optimizer's epsilon against the type of its parameters."""
    for optimizer in facts.optimizers:
        for eps in sorted(set(optimizer.eps)):
            if eps == 0:
                yield finding(
                    "optimizer-eps",
                    "error",
                    f"{optimizer.kind} divides by the root of the gradients' mean square plus eps, and eps is 0: a "
                    "parameter whose gradient is 0 becomes 0 / 0",
                    optimizer,
                    value="0",
                    cause="optimizer-epsilon",
                )
                continue
            for dtype in optimizer.dtypes:
                if eps < SMALLEST.get(dtype, 0.0):
                    yield finding(
                        "optimizer-eps",
                        "error",
                        f"eps {eps:g} of {optimizer.kind} is 0 in {dtype}, whose smallest number is "
                        f"{SMALLEST[dtype]:.2g}",
                        optimizer,
                        value=f"{eps:g}",
                        cause="optimizer-epsilon",
                    )


@remark
def warmup(facts: StepFacts) -> Iterator[Finding]:
    """The learning rate of the first steps: 0, or rising at once to many times what it began with."""
    for optimizer in facts.optimizers:
        rates = optimizer.later_rates
        if rates and rates[0] == 0:
            yield finding(
                "warmup",
                "note",
                "the first step has learning rate 0: the warm-up begins at 0 and not at its first step",
                optimizer,
                value="0",
            )
        if len(rates) >= 2 and rates[0] > 0 and rates[1] > 9 * rates[0]:
            yield finding(
                "warmup",
                "warning",
                f"the learning rate goes from {rates[0]:g} to {rates[1]:g} in one step: is the warm-up counted in "
                "epochs where steps were meant?",
                optimizer,
                value=f"{rates[1]:g}",
                cause="learning-rate-too-high",
            )


@remark
def weight_decay(facts: StepFacts) -> Iterator[Finding]:
    """Weight decay that takes more of a weight in one step than training puts there."""
    for optimizer in facts.optimizers:
        for rate, decay in zip(optimizer.rates, optimizer.decays):
            if optimizer.kind in ("Adam", "RMSprop", "Adagrad", "LBFGS") or decay <= 0:
                continue
            share = rate * decay / max(1 - optimizer.momentum, 1e-3)
            if share >= 0.1:
                severity: Severity = "error" if rate * decay >= 2 or share >= 2 else "warning"
                yield finding(
                    "weight-decay",
                    severity,
                    f"learning rate {rate:g} times weight decay {decay:g} takes {share:.2g} of every weight each step"
                    + (": it turns their sign, and they grow" if share >= 2 else ""),
                    optimizer,
                    value=f"{share:.3g}",
                    cause="excessive-regularization",
                )


@remark
def layer_scale(facts: StepFacts) -> Iterator[Finding]:
    """Activations that grow or vanish from layer to layer, and units that give nothing."""
    layers = [layer for layer in facts.layers if layer.rms > 0]
    if len(layers) >= 2:
        largest, smallest = max(layers, key=lambda l: l.rms), min(layers, key=lambda l: l.rms)  # noqa: E741
        if largest.rms > 1e3 * max(layers[0].rms, 1.0):
            yield Finding(
                "activation-scale",
                "warning",
                f"the output of {largest.path} is {largest.rms:.3g} in size, of the first layer "
                f"{layers[0].rms:.3g}: "
                "activations grow with depth, and gradients with them",
                value=f"{largest.rms:.4g}",
                cause="bad-initialization",
            )
        if smallest.rms < 1e-5:
            yield Finding(
                "activation-scale",
                "warning",
                f"the output of {smallest.path} is {smallest.rms:.3g} in size: activations vanish with depth",
                value=f"{smallest.rms:.4g}",
                cause="bad-initialization",
            )
    for layer in facts.layers:
        if layer.kind in _RELUS and layer.zeros > 0.98:
            yield Finding(
                "dead-units",
                "warning",
                f"{100 * layer.zeros:.0f} % of what {layer.path} gives is 0: its units are dead",
                value=f"{layer.zeros:.3f}",
                cause="bad-initialization",
            )
        if layer.saturated > 0.9:
            yield Finding(
                "saturated-units",
                "warning",
                f"{100 * layer.saturated:.0f} % of what {layer.path} gives lies at its ends: gradients vanish there",
                value=f"{layer.saturated:.3f}",
                cause="bad-initialization",
            )


@remark
def small_batch_norm(facts: StepFacts) -> Iterator[Finding]:
    """BatchNorm over a handful of values: tiny batches, maps of 1x1."""
    context = facts.context
    for node in relevant(context, "native_batch_norm", "cudnn_batch_norm", "_batch_norm_with_update"):
        shape = context.node(node.inputs[0]).shape
        if node.attrs.get("training") is False or len(shape) < 2:
            continue
        n = context.node(node.inputs[0]).size // max(shape[1], 1)
        if n <= _FEW:
            yield finding(
                "batch-norm-batch",
                "warning",
                f"BatchNorm takes mean and variance of {n} values a channel (input "
                f"{'x'.join(map(str, shape))}); with 1 "
                "it fails, with few they are noise: GroupNorm, or larger batches",
                node,
                value=str(n),
                cause="normalization-zero-variance",
            )
    yield from _of_compiled(facts)


def _of_compiled(facts: StepFacts) -> Iterator[Finding]:
    """1 / sqrt(variance + eps), the variance a mean over the batch."""
    context = facts.context
    for node in relevant(context, "rsqrt", "rsqrt_"):
        added = context.maker(node.inputs[0])
        if added.op != "add":
            continue
        total = _sum_of_squares(context, next((i for i in added.inputs if context.number(i) is None), added.inputs[0]))
        if total is None:
            continue
        shape, dims = context.node(total.inputs[0]).shape, total.attrs.get("dim") or []
        dims = [int(d) % max(len(shape), 1) for d in dims]
        n = math.prod(shape[d] for d in dims)
        if 0 in dims and len(shape) >= 2 and len(dims) < len(shape) and n <= _FEW:
            yield finding(
                "batch-norm-batch",
                "warning",
                f"BatchNorm takes mean and variance of {n} values a channel (input {'x'.join(map(str, shape))}); with "
                "1 all is 0, with few they are noise: GroupNorm, or larger batches",
                node,
                value=str(n),
                cause="normalization-zero-variance",
            )


def _sum_of_squares(context: Context, index: int) -> Node | None:
    for _ in range(6):
        node = context.maker(index)
        if node.op in ("sum", "reduce_sum", "mean", "var", "var_mean") and node.inputs:
            return node
        if node.op in ("select_n", "where") and len(node.inputs) > 2:
            # A variance of nothing is NaN by a selection; the other branch is the sum's.
            branches = [i for i in node.inputs[1:] if context.node(i).measured is not None]
            index = next((i for i in branches if context.number(i) is None and context.values[i].varies), branches[-1])
        elif node.op in ("div", "maximum", "sub", "mul") and node.inputs:
            index = next((i for i in node.inputs if context.number(i) is None), node.inputs[0])
        else:
            return None
    return None


@remark
def uninitialized(facts: StepFacts) -> Iterator[Finding]:
    """Parameters whose memory was never written to."""
    for node in facts.context.graph.nodes:
        if node.attrs.get("uninitialized"):
            yield finding(
                "uninitialized-parameter",
                "error",
                f"{node.name or 'a parameter'} was made by `empty` and never written to",
                node,
                cause="uninitialized-memory",
            )
