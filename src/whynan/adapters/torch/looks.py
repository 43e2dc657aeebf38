"""What may show a non-finite loss, and what the script itself notices of one and does about it."""

import ast
import linecache
import re
from collections.abc import Iterator
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from whynan.adapters.torch.elements import first_nonfinite, kind_at, nonfinite_elements
from whynan.adapters.torch.frames import sounds_like_loss
from whynan.adapters.torch.sites import Event, Leaving, Pass
from whynan.launch.host import is_user_file
from whynan.launch.plain import whynan_frame
from whynan.launch.rewrite import LoopSite
from whynan.records import Incident
from whynan.snapshot import _tree, find_loop, frame_values

if TYPE_CHECKING:
    from whynan.adapters.torch.host import TorchHost


MANY_SKIPS = 8
_CHECKS = re.compile(r"isfinite|isnan|isinf|finite|overflow|skip")
_SPEAKS_OF_NONFINITE = re.compile(
    r"\bnan\b|\binf\b|infinit|finite|invalid values|did not converge|failed to converge|ill-condition|singular|"
    r"positive height and width|satisfy the constraint|between 0 and 1|not positive-definite|diverge",
    re.IGNORECASE,
)
_GUARDS = re.compile(r"positive height and width|degenerate|invalid box", re.IGNORECASE)
_NUMBERS_GO_WRONG = (ValueError, RuntimeError, AssertionError, ArithmeticError, SystemExit)
_STRONG = re.compile(r"\.backward\(|\.step\(|autograd\.grad\(")
_WEAK = re.compile(r"train|update|optimi|fit\(|learn|loss|criterion")


_VALIDATION = re.compile(
    r"(?<![a-z])(val|valid|validation|eval|evaluation|test|dev|holdout|heldout)(?![a-z])", re.IGNORECASE
)


def is_validation_loss(name: str) -> bool:
    """Whether a variable or a key is called like a loss over data that nothing is trained on."""
    return _VALIDATION.search(name) is not None and sounds_like_loss(name)


def loss_in_comprehension(file: str, line: int | None) -> str | None:
    """Return the loss that a comprehension at a line reads: "l1_loss" in `[l1_loss(...).item() for ...]`."""
    tree = _tree(file)
    for outer in ast.walk(tree) if tree is not None else ():
        if isinstance(outer, (ast.ListComp, ast.GeneratorExp)):
            is_there = outer.lineno <= (line or 0) <= (outer.end_lineno or 0)
            for call in ast.walk(outer.elt) if is_there else ():
                name = ast.unparse(call.func).rpartition(".")[2] if isinstance(call, ast.Call) else ""
                if sounds_like_loss(name):
                    return name
    return None


def loss_in_frame(frame: FrameType, site: LoopSite, trained: bool) -> Event | None:
    """Return a non-finite one-element tensor that the body has assigned, called like a loss or differentiable."""
    values = frame_values(frame) or {}
    for name in site.assigned:
        for label, tensor in _scalars(name, values.get(name)):
            if trained and not tensor.requires_grad:
                continue
            if not tensor.requires_grad and not sounds_like_loss(label):
                continue
            kind = kind_at(tensor, (0,) * tensor.dim())
            if kind is not None:
                event = Event("loss", "exit", [tensor], label, kind)
                event.differentiable = tensor.requires_grad
                event.line = (frame.f_code.co_filename, frame.f_lineno)
                return event
    return None


def _scalars(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, torch.Tensor):
        if value.numel() == 1 and value.is_floating_point() and value.device.type == "cpu":
            yield name, value
    elif isinstance(value, dict) and len(value) <= 64:
        for key, item in value.items():
            if isinstance(item, torch.Tensor):
                yield from _scalars(str(key), item)


def spoken(error: BaseException) -> BaseException:
    """Return the exception of the chain that speaks of such numbers: a script may catch one to leave by another."""
    found: BaseException | None = error
    for _ in range(4):
        if found is None:
            break
        if isinstance(found, _NUMBERS_GO_WRONG) and _SPEAKS_OF_NONFINITE.search(str(found)):
            return found
        found = found.__cause__ or found.__context__
    return error


def nonfinite_in_exception(error: BaseException, frame: FrameType) -> Event | None:
    """Return the non-finite tensor that an exception is about, where it is about one.

    Frames are looked through from where the exception was raised outwards, to the loop's own frame. A tensor counts if
    the message speaks of such numbers, or if it is a loss and the script itself raised (or left) because of it.
    """
    if not isinstance(error, (*_NUMBERS_GO_WRONG, torch.linalg.LinAlgError)):
        return None
    message = str(error)
    speaks = bool(_SPEAKS_OF_NONFINITE.search(message))
    frames = _frames(error)
    for inner in reversed(frames):
        for name, value in (frame_values(inner) or {}).items():
            event = _loss_or_spoken_of(name, value, speaks, isinstance(error, torch.linalg.LinAlgError))
            if event is not None:
                event.line = (inner.f_code.co_filename, inner.f_lineno)
                return event
        if inner is frame:
            break
    if _GUARDS.search(message):
        event = Event("input", "exception", [], "targets", "nan")
        inner = next((f for f in reversed(frames) if is_user_file(f.f_code.co_filename)), frame)
        lines = dict(_lines(error))
        event.line = (inner.f_code.co_filename, lines.get(inner, inner.f_lineno))
        return event
    return None


def _loss_or_spoken_of(name: str, value: Any, speaks: bool, infinities_count: bool) -> Event | None:
    for label, tensor in _tensors(name, value):
        if not tensor.is_floating_point() or tensor.numel() == 0 or tensor.layout != torch.strided:
            continue
        is_loss = tensor.numel() == 1 and (tensor.requires_grad or sounds_like_loss(label))
        if not (speaks or is_loss) or bool(torch.isfinite(tensor.detach()).all()):
            continue
        kind = nonfinite_elements(tensor, 1)[1]
        if kind == "nan" or is_loss or infinities_count:
            return Event("loss" if is_loss else "input", "exception", [tensor], label, kind)
    return None


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict) and len(value) <= 64:
        for key, item in value.items():
            if isinstance(item, torch.Tensor):
                yield str(key), item
    elif isinstance(value, (list, tuple)) and len(value) <= 16:
        for item in value:
            if isinstance(item, torch.Tensor):
                yield name, item


def _frames(error: BaseException) -> list[FrameType]:
    found = []
    trace = error.__traceback__
    while trace is not None:
        if not whynan_frame(trace.tb_frame.f_code):
            found.append(trace.tb_frame)
        trace = trace.tb_next
    return found


def _lines(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def training_iteration(candidates: list[Pass]) -> Pass | None:
    """Of the iterations on the stack, innermost first, return the one that is a training (or validation) step."""
    for current in candidates:
        if current.trained or current.owner.n_training:
            return current
    for pattern in (_STRONG, _WEAK):
        for current in candidates:
            site = current.site
            body = "".join(linecache.getlines(site.filename)[site.body_first_line - 1 : site.body_last_line])
            if pattern.search(body):
                return current
    return candidates[0] if candidates else None


def by_text(candidates: list[Pass]) -> Pass | None:
    """Return the innermost iteration whose source runs a backward pass or an optimizer's step."""
    for current in candidates:
        site = current.site
        body = "".join(linecache.getlines(site.filename)[site.body_first_line - 1 : site.body_last_line])
        if _STRONG.search(body):
            return current
    return None


_WORTH_A_LOOK_S = 2e-4
"""Iterations shorter than this run no model's forward pass."""


class Looks:
    """Keeps what was read in this iteration, what turned out innocent, and the steps that the script skipped."""

    def __init__(self, host: "TorchHost") -> None:
        self.host = host
        self.read: tuple[Event, Pass] | None = None
        self.innocent_lines: set[tuple[str, int | None]] = set()
        self.provisional: Incident | None = None
        self.skipped: list[Incident] = []
        self.n_skipped_in_a_row = 0
        self.left_to_script: tuple[Event, Pass] | None = None
        self.n_left_out = 0

    def suspect(self, current: Pass, frame: FrameType) -> Event | None:
        """Look for a non-finite loss that the script has seen before we have; None where there is none."""
        if self.host.plan is None and self.read is not None and self.read[1] is current and not current.trained:
            return self.read[0]
        if current not in self.host.loops.on_stack(frame):
            return None
        return loss_in_frame(current.frame, current.site, current.trained)

    def is_symptom_in(self, error: BaseException, current: Pass) -> bool:
        """Whether an exception of the script's comes from non-finite values; if so, replay the right iteration."""
        targets = [c for c in self.host.loops.on_stack(current.frame) if c.snapshot is not None]
        target = training_iteration(targets)
        if target is None:
            return False
        error = spoken(error)
        event = None
        if self.read is not None and self.read[1] is target:
            event = self.read[0]
        event = event or nonfinite_in_exception(error, target.frame)
        if event is None:
            return False
        event.error = error
        self.host.set_pending(event, target)
        assert self.host.pending is not None
        self.host.pending.leaves = True
        self.host.pending.error = error
        if target is current:
            return True
        raise Leaving(target)

    def at_end(self, current: Pass) -> None:
        """The body ended by itself. A loss was read, or stands in a variable, and nothing was done with it?"""
        is_read = self.read is not None and self.read[1] is current
        if current.snapshot is None and not is_read:
            return
        if (
            current.snapshot is not None
            and self.host.known.buffers()
            and current.elapsed > _WORTH_A_LOOK_S
            and current in self.host.loops.on_stack(current.frame)
        ):
            poisoned = self.host.watch.poisoned_buffer(current.snapshot.buffers.pairs)
            if poisoned is not None and not self._was_so_before(poisoned, current):
                poisoned.line = (current.site.filename, current.site.header_line)
                self.host.set_pending(poisoned, current)
                return
        if current.trained:
            self._look_at_left_out(current)
            if current.snapshot is not None and not self.host.known.optimizers:
                self._look_at_parameters(current)
            if self.host.pending is None:
                self._look_at_validation(current)
            return
        event = None
        if self.read is not None and self.read[1] is current:
            event = self.read[0]
        elif current in self.host.loops.on_stack(current.frame):
            event = loss_in_frame(current.frame, current.site, False)
        if event is None or event.line in self.innocent_lines:
            return
        if current.owner.n_training == 0 and event.differentiable and self._is_part_of_a_step(current, event, is_read):
            return
        if current.owner.n_training == 0 or (not event.differentiable and self._only_evaluates()):
            event.stage = "validation"
        else:
            event.was_skipped = True
            self.n_skipped_in_a_row += 1
            if self.n_skipped_in_a_row == MANY_SKIPS:
                self._end_of_skipping()
            if self.n_skipped_in_a_row > 1:
                return
        self.host.set_pending(event, current)

    def _was_so_before(self, poisoned: Event, current: Pass) -> bool:
        """Whether the iteration around did it, which is asked at its end: `for name, loss in model(x, y).items()`."""
        assert current.snapshot is not None
        copies = {id(buffer): copy for buffer, copy in current.snapshot.buffers.pairs}
        old = [copies[id(buffer)] for buffer in poisoned.tensors if id(buffer) in copies]
        return bool(first_nonfinite(old)) and self.host.outer_of(current) is not None

    def leaves_to_script(self, event: Event, target: Pass | None) -> bool:
        """Whether the script itself is going to ask whether these gradients are finite, and may leave the update out.

        Where it makes the update all the same, they are looked at once more before that.
        """
        if event.what != "gradient" or event.when != "after backward" or target is None or self.host.ranks.is_joint:
            return False
        if not _leaves_updates_out(target.site):
            return False
        if event.moment is not None and self.host.watch.n_steps > event.moment.step:
            return False  # heard of late: it has made the update
        self.left_to_script = (event, target)
        return True

    def is_proposal(self, event: Event, targets: list[Pass]) -> bool:
        """Whether code around this loop takes its result or leaves it by what it finds of finite numbers.

        As a sampler does with a trajectory; there is no optimizer that would have updated anything by then.
        """
        if self.host.known.optimizers or event.what not in ("loss", "gradient"):
            return False
        return any(_chooses_by_finite(current.site) for current in targets[1:])

    def _look_at_left_out(self, current: Pass) -> None:
        """An iteration has ended: was its update left out for its gradients, as all those before it?"""
        left, self.left_to_script = self.left_to_script, None
        if left is None or left[1] is not current or self.host.watch.n_steps > current.n_steps:
            self.n_left_out = 0
            return
        self.n_left_out += 1
        # A loss scale of the script's own may have to fall from 2 ** 24 to 1.
        if self.n_left_out == 3 * MANY_SKIPS:
            self.host.set_pending(left[0], current)

    def _look_at_parameters(self, current: Pass) -> None:
        """No optimizer is known whose steps would be watched: have the script's own updates left numbers?"""
        event = self.host.watch.poisoned_parameter()
        if event is not None:
            event.line = (current.site.filename, current.site.header_line)
            self.host.set_pending(event, current)

    def _look_at_validation(self, current: Pass) -> None:
        """An epoch has ended in which a loop around batches trained: was the validation loss that it read a number?

        A validation loop looks after itself (`at_end`); where its split is empty there is no iteration of one.
        """
        event = self.read[0] if self.read is not None and self.read[1] is current else None
        if event is None or event.differentiable or event.line in self.innocent_lines or current.snapshot is None:
            return
        is_epoch = any(site.last_trained > current.serial for site in self.host.loops.sites.values())
        if not is_epoch or self.provisional is not None or self.skipped:
            return
        called = loss_in_comprehension(*event.line) if event.line is not None else None
        if is_validation_loss(event.name) or called is not None:
            event.name = called or event.name
            event.stage, event.is_loss = "validation", True
            self.host.set_pending(event, current)

    def _only_evaluates(self) -> bool:
        """Whether a loop that trains at other times evaluates now: without gradients, or all models in eval mode."""
        known = self.host.known
        trained = [m for m in known.roots().values() if any(p.requires_grad for p in m.parameters())]
        return not torch.is_grad_enabled() or (bool(trained) and not any(m.training for m in trained))

    def _is_part_of_a_step(self, current: Pass, event: Event, is_read: bool) -> bool:
        """Whether a loop that trains nothing runs inside a training step: its losses are that step's to look at."""
        if not is_read:
            return True
        around = [c for c in self.host.loops.on_stack(current.frame) if c is not current and not c.trained]
        step = training_iteration([c for c in around if c.owner.n_training]) or by_text(around)
        if step is not None:
            self.read = (event, step)
        return step is not None

    def _end_of_skipping(self) -> None:
        """The script has skipped so many steps in a row that nothing is trained any more: the first is an incident."""
        incident, self.provisional = self.provisional, None
        if incident is None:
            return
        action = f"the script skipped this step and the next {MANY_SKIPS - 1}"
        stops = self.host.options.policy == "stop"
        self.host.record(replace(incident, action=f"stopped: {action}" if stops else f"{action}; it goes on"))
        if stops:
            self.host.is_over = True
            self.host.watch.enabled = False
            raise Leaving(None)


def _leaves_updates_out(site: LoopSite) -> bool:
    """Whether a loop makes its update only, or goes on without one, by what it finds of finite numbers."""
    loop = find_loop(site)
    chosen = []
    for node in ast.walk(loop) if loop is not None else ():
        if isinstance(node, ast.If):
            inner = [part for statement in node.body for part in ast.walk(statement)]
            steps = any(isinstance(part, ast.Attribute) and part.attr == "step" for part in inner)
            if steps and any(isinstance(part, ast.Mod) for part in ast.walk(node.test)):
                return False  # gradients are added up over some iterations
            if steps or any(isinstance(part, ast.Continue) for part in inner):
                chosen.append(ast.unparse(node.test))
    return any(_CHECKS.search(test) for test in chosen)


def _chooses_by_finite(site: LoopSite) -> bool:
    """Whether a loop's body does something only if a number is finite, and ends for none that is not."""
    loop = find_loop(site)
    tests: set[str] = set()
    is_choice = False
    for node in ast.walk(loop) if loop is not None else ():
        if isinstance(node, ast.Assign) and _CHECKS.search(ast.unparse(node.value)):
            tests |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.If) and (_CHECKS.search(test := ast.unparse(node.test)) or test in tests):
            if re.search(r"\b(raise|break|return|continue|exit|quit)\b", ast.unparse(node)):
                return False
            is_choice = True
    return is_choice
