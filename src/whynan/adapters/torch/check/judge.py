"""From recorded steps of PyTorch to suspects, witnesses and a review."""

import sys
import time
from dataclasses import replace
from typing import Any

from whynan.adapters.torch.check.host import TorchCheck
from whynan.adapters.torch.check.program import GRAPH_STRIDE, Program, replay
from whynan.adapters.torch.check.search import TorchSearch
from whynan.check.context import Context
from whynan.check.graph import SMALLEST, Graph, Measured, Range
from whynan.check.hazards import Hazard
from whynan.check.review import StepFacts, review
from whynan.check.session import CheckOptions, Progress
from whynan.check.suspects import CheckResult, Suspect, find_suspects, merged, ranked
from whynan.check.transfer import analyse
from whynan.check.witness import Replayed, Saved, Witness
from whynan.errors import WitnessError

_MAX_GRAPHS = 2


class TorchRecording(TorchCheck):
    def seen(self) -> str:
        parts = [
            f"{self.recorder.n_ops} PyTorch operations",
            f"{self.n_backward} backward passes",
            f"{self.n_updates} optimizer steps",
            f"{self.n_iterations} whole iterations",
        ]
        return "seen were " + ", ".join(parts)

    def judge(self, options: CheckOptions, result: CheckResult, progress: Progress, has_raised: bool) -> None:
        graphs = [(g, p) for g, p in self.graphs if g.roots][:_MAX_GRAPHS]
        if self.recorder.graph is not None and not graphs and self.recorder.graph.roots:
            graphs.append(self.recorder.end())  # the script ended in the middle of its second step
        if self.recorder.n_failed:
            result.notes.append(f"{self.recorder.n_failed} operations could not be recorded: {self.recorder.failure}")
        suspects = list(self._measured(has_raised))
        widen(graphs)
        contexts = []
        for number, (graph, program) in enumerate(graphs):
            progress(f"ranges of {len(graph.nodes)} operations")
            context = analyse(graph, options.growth)
            contexts.append((context, program))
            suspects += [replace(s, hazard=replace(s.hazard)) for s in tagged(find_suspects(context), number)]
            result.n_nodes += len(graph.nodes)
        suspects = merged([*suspects, *self._of_optimizers(), *self._unscaled(contexts)])
        if options.search and suspects:
            suspects = self._searched(suspects, contexts, options, progress)
        # What a library guards in ways that ranges don't see is its own business, until it is shown to fail.
        result.suspects = ranked(s for s in suspects if s.has_witness or not s.is_in_library)
        if contexts:
            progress("review")
            result.review = review(self._facts(contexts[0][0], contexts[0][1]))
        progress("")

    def replay(self, options: CheckOptions, saved: Saved) -> Replayed:
        """Run the recorded step on a saved witness; the first one where this run has fewer."""
        graphs = [(g, p) for g, p in self.graphs if g.roots]
        if not graphs:
            raise WitnessError(f"no step was recorded to run the witness on: {self.seen()}")
        graph, program = graphs[min(saved.graph, len(graphs) - 1)]
        return replay(TorchSearch(analyse(graph, options.growth), program), saved)

    def _measured(self, has_raised: bool) -> list[Suspect]:
        """What became non-finite in the first steps already, where the loss or a parameter did too."""
        if not has_raised and not self.facts.has_failed():
            return []
        found = []
        for name, place, kind, dtype in self.recorder.lineage.births.values():
            hazard = Hazard(-1, "", f"{name} gave {kind} in the first steps of this run", (), certainty=0.99)
            cause, remedies = _CAUSES.get(name, ("bad-initialization", ("better-init", "normalize-inputs")))
            if kind == "inf" and dtype == "float16":
                cause, remedies = "half-precision-overflow", ("full-precision",)
            elif kind == "nan" and name in ("sub", "add"):
                cause, remedies = "inf-minus-inf", ("mask-fix",)
            elif kind == "inf" and name == "pow":
                cause, remedies = "bad-initialization", ("better-init", "normalize-inputs")
            witness = Witness("found", "measured: it happened in the first steps", effect=f"{name} gave {kind}")
            found.append(
                Suspect(
                    name,
                    "forward",
                    place,
                    cause,
                    remedies,
                    hazard.why,
                    Range(),
                    dtype,
                    replace(hazard, cause=cause),
                    witness=witness,
                )
            )
        return found

    def _of_optimizers(self) -> list[Suspect]:
        """An update that divides by the root of a mean square, and adds nothing to it."""
        found = []
        for facts in self.facts.optimizer_facts.values():
            smallest = max((SMALLEST.get(dtype, 0.0) for dtype in facts.dtypes), default=0.0)
            eps = min(facts.eps, default=1.0)
            if facts.place is None or eps >= max(smallest, 1e-300):
                continue
            why = (
                f"{facts.kind} divides by the root of the gradients' mean square plus eps, and eps {eps:g} is 0 in "
                f"{', '.join(facts.dtypes)}: a parameter whose gradient is 0 becomes 0 / 0"
            )
            half = eps > 0
            hazard = Hazard(
                -1, "half-precision-underflow" if half else "optimizer-epsilon", why, ("larger-eps",), certainty=0.95
            )
            found.append(
                Suspect(
                    "addcdiv",
                    "optimizer",
                    facts.place,
                    hazard.cause,
                    hazard.remedies,
                    why,
                    Range(0.0),
                    facts.dtypes[0],
                    hazard,
                    also=("optimizer-epsilon",) if half else (),
                    witness=Witness("not searched", "the update is not run again"),
                )
            )
        return found

    def _unscaled(self, contexts: list[tuple[Context, Program]]) -> list[Suspect]:
        """The last product in float16 before a loss that no scaler scales: there gradients underflow first."""
        norms = [facts.gradient_norm for facts in self.facts.optimizer_facts.values()]
        if self.facts.is_scaled or not contexts or all(norm < _LARGE_GRADIENT for norm in norms):
            # The review tells of the missing scaler; a line is at fault where gradients leave the type.
            return []
        context = contexts[0][0]
        relevant = context.graph.relevant()
        products = [
            n
            for n in context.graph.nodes
            if n.dtype == "float16"
            and n.index in relevant
            and n.place is not None
            and n.op in _PRODUCTS
            and context.values[n.index].grad
        ]
        if not products:
            return []
        node = products[-1]
        assert node.place is not None
        why = "its gradient is computed in float16, and no GradScaler scales the loss: small ones become 0"
        hazard = Hazard(
            node.index, "missing-grad-scaling", why, ("grad-scaler", "full-precision"), phase="backward", certainty=0.6
        )
        return [
            Suspect(
                node.op,
                "backward",
                node.place,
                hazard.cause,
                hazard.remedies,
                why,
                context.values[node.index],
                node.dtype,
                hazard,
                node.module,
                witness=Witness("not searched", "a matter of the gradients' scale"),
            )
        ]

    def _searched(
        self,
        suspects: list[Suspect],
        contexts: list[tuple[Context, Program]],
        options: CheckOptions,
        progress: Progress,
    ) -> list[Suspect]:
        until = time.monotonic() + options.budget
        searches = [TorchSearch(context, program) for context, program in contexts]
        found = []
        for number, suspect in enumerate(suspects, 1):
            if suspect.witness is not None:
                found.append(suspect)
                continue
            progress(f"looking for a witness, {number} of {len(suspects)}: {suspect.place.code[:60]}")
            left = until - time.monotonic()
            share = min(left, max(left / (len(suspects) - number + 1) * 2, 0.5))
            which, node = divmod(suspect.hazard.node, GRAPH_STRIDE)
            if left <= 0.05:
                witness = Witness("not searched", "the time for witnesses was used up")
            else:
                try:
                    witness = searches[which].find(replace(suspect.hazard, node=node), suspect.phase, share)
                    witness = replace(witness, graph=which)
                except Exception as error:  # a step that can't be run again is judged by its ranges alone
                    witness = Witness(
                        "not searched", f"the step could not be run again: {type(error).__name__}: {error}"[:200]
                    )
            found.append(replace(suspect, witness=witness))
        return found

    def _facts(self, context: Context, program: Program) -> StepFacts:
        from whynan.adapters.torch.check.program import rate_test

        facts = self.facts
        optimizers = tuple(facts.optimizer_facts.values())
        if "keras" in sys.modules:
            from whynan.adapters.keras import optimizers_of

            optimizers = (*optimizers, *optimizers_of(facts.place))
        try:
            tested = rate_test(context.graph, program, optimizers[0]) if optimizers else ()
        except Exception:
            tested = ()
        return StepFacts(
            context,
            optimizers,
            tuple(facts.layers.values()),
            tuple(facts.losses),
            facts.is_scaled,
            facts.clipped_before_unscale,
            facts.n_clipped,
            tested,
        )


_LARGE_GRADIENT = 1e3
"""Of all parameters together, in the first step; float16 ends at 65504."""
_PRODUCTS = ("convolution", "addmm", "mm", "bmm", "linear", "baddbmm")
_SHORT = 4
_CAUSES = {
    "log": ("log-of-zero", ("clamp-or-eps",)),
    "div": ("division-by-zero", ("clamp-or-eps",)),
    "div_": ("division-by-zero", ("clamp-or-eps",)),
    "sqrt": ("domain-error", ("clamp-or-eps",)),
    "exp": ("exp-overflow", ("clamp-or-eps",)),
    "_softmax": ("fully-masked-softmax", ("mask-fix",)),
    "mean": ("empty-reduction", ("skip-empty",)),
    "std": ("empty-reduction", ("skip-empty",)),
    "acos": ("domain-error", ("clamp-or-eps",)),
    "pow": ("domain-error", ("clamp-or-eps",)),
}


def tagged(suspects: list[Suspect], number: int) -> list[Suspect]:
    """Let a hazard's node tell which graph it is of."""
    return [replace(s, hazard=replace(s.hazard, node=s.hazard.node + number * GRAPH_STRIDE)) for s in suspects]


def widen(graphs: list[tuple[Graph, Any]]) -> None:
    """Give data of the same line in several steps the range that all of them have shown, and note sizes that vary."""
    shown: dict[Any, Measured] = {}
    sizes: dict[Any, set[int]] = {}
    for graph, _ in graphs:
        for node in graph.nodes:
            place = node.place
            key = (place.file, place.line, node.op, node.dtype, len(node.shape), node.kind) if place else None
            if key is None:
                continue
            if node.kind == "data" and node.measured is not None:
                other = shown.get(key)
                shown[key] = node.measured if other is None else joined(node.measured, other)
            if node.op in ("std", "var", "var_mean", "std_mean") and node.inputs:
                sizes.setdefault(key, set()).add(graph.nodes[node.inputs[0]].size)
    for graph, _ in graphs:
        for node in graph.nodes:
            place = node.place
            key = (place.file, place.line, node.op, node.dtype, len(node.shape), node.kind) if place else None
            if node.kind == "data" and key in shown:
                node.measured = shown[key]
            if key in sizes and len(sizes[key]) > 1:
                # Of single samples many were seen: where each is long, one of length 1 is not to be expected.
                node.attrs["n_varies"] = not node.attrs.get("fetched") or min(sizes[key]) <= _SHORT


def joined(a: Measured, b: Measured) -> Measured:
    return Measured(min(a.lo, b.lo), max(a.hi, b.hi), min(a.least, b.least), a.n_nonfinite + b.n_nonfinite)
