"""Events that are heard of when their iteration may be over: where they happened, and how it is run again from there.

The iteration after it stands for it: what that one ran on is put aside, and taken up again when the step is undone.
"""

import sys
from typing import TYPE_CHECKING, Any

from whynan.adapters.torch.frames import live_user_frame
from whynan.adapters.torch.sites import Event, Leaving, Moment, Pass

if TYPE_CHECKING:
    from whynan.adapters.torch.host import TorchHost


class Belated:
    """The host's part in what a device is asked and answers later (late.py)."""

    def __init__(self, host: "TorchHost") -> None:
        self.host = host
        self.late = host.loops.late = host.watch.late
        host.watch.now = self.moment

    def moment(self) -> Moment | None:
        """Return where the program is, in an iteration that could be run again after its end; None elsewhere."""
        host = self.host
        if host.is_over or host.plan is not None or host.ranks.is_joint or not host.known.optimizers:
            return None
        alive = host.loops.alive()
        if all(current.snapshot is None for current in alive):
            return None
        for current in alive:
            if current.counts is None:
                current.counts = host.watch.bookkeeping() | {"n_events": current.n_events}
        frame = live_user_frame(sys._getframe(1))
        line = (frame.f_code.co_filename, frame.f_lineno) if frame is not None else None
        return Moment(tuple(current.serial for current in alive), host.watch.n_steps, host.watch.n_events, line)

    def target_of(self, event: Event, targets: list[Pass]) -> Pass | None:
        """Return the innermost of some iterations that an event can be explained in."""
        moment = event.moment
        if moment is None:
            return next((t for t in targets if t.snapshot is not None), None)
        fitting = (t for t in targets if (t.snapshot is not None and t.is_at(moment)) or t.is_after(moment))
        return next(fitting, None)

    def earlier(self, event: Event, target: Pass | None) -> Event:
        """Return what an event comes from, where an answer that is still to come tells of it; else the event itself."""
        if event.moment is None and target is not None and self.late.n_waiting:
            self.late.settle(self.late.n_asked)
            known = [e for e in self.host.watch.found if self.target_of(e, [target]) is target]
            event = known[0] if known else event
        self.host.watch.found.clear()
        self.late.forget()
        return event

    def before_update(self, optimizer: Any, alive: list[Pass]) -> None:
        """Wait for what is still to come where what this update does could not be undone."""
        if not self.late.n_waiting:
            return
        current = alive[0] if alive else None
        snapshot = current.snapshot if current is not None and current.can_go_back() else None
        if snapshot is None or id(optimizer) not in snapshot.optimizers:
            self.host.watch.hear_all()

    def forget_past(self) -> None:
        """Let go of iterations that are over where all is known of them and none is to be run again."""
        if self.late.n_asked and self.host.pending is None:
            self.host.loops.forget_past()

    def at_end(self, current: Pass) -> None:
        """Take what has come, where an iteration has ended."""
        if not self.late.n_asked:
            return
        # A trainer that makes its update elsewhere: nothing of it could be undone from there.
        is_whole = self.host.watch.n_steps > current.n_steps or not current.owner.is_step
        try:
            self.host.watch.hear(0 if is_whole else self.late.n_asked)
        except Leaving as leaving:
            if leaving.target is not current:
                raise
        if not self.late.n_waiting:
            self.forget_past()

    def go_back(self, current: Pass) -> None:
        """Let an iteration stand for the one that the symptom which waits for its end happened in."""
        moment = self.host.pending.moment if self.host.pending is not None else None
        if moment is not None and not current.is_at(moment):
            self.host.watch.put_back(current.go_back())

    def goes_on(self, current: Pass, is_undone: bool) -> bool:
        """Let it stand for itself again; return whether its body is to run once more, since its step was undone too."""
        if current.own is None:
            return False
        again = is_undone and not current.owner.is_step  # a trainer counts its step as undone, too
        current.come_back(again)
        return again

    def hear_the_rest(self) -> None:
        """The program has ended: wait for whatever has been asked for and not come."""
        try:
            self.host.watch.hear_all()
        except Leaving:
            pass  # there is nothing left to leave
