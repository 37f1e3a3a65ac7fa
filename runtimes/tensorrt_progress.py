"""How far a build is: TensorRT tells of phases within phases, we tell one phase, a share and an estimate."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import BaseModel

_LOG = logging.getLogger("rs4d_edge.build")
_INTERVAL_S = 0.2  # between two messages; a build has tens of thousands of steps


class BuildProgress(BaseModel):
    """A build goes on: in TensorRT's own words the phase, its step of `steps` (mostly layers), and the time so far.

    `done` is the share of the whole that is done, from 0 to 1, by steps; `left_s` the time that is left if steps go on
    as fast as before, None while nothing can be said.
    """

    phase: str
    step: int
    steps: int
    done: float
    elapsed_s: float
    left_s: float | None = None

    def __str__(self) -> str:
        """One line."""
        left = f", about {self.left_s:.0f} s left" if self.left_s is not None else ""
        return f"{self.phase}, {self.step} of {self.steps} ({self.done:.0%}, {self.elapsed_s:.0f} s{left})"


class LoggedProgress:
    """Writes progress into the log as it goes, not too often: for programs that nobody watches."""

    def __init__(self, interval_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s, self._clock = interval_s, clock
        self._due = clock()  # the first at once: that it builds is news

    def __call__(self, progress: BuildProgress) -> None:
        """Called by the build."""
        if self._clock() >= self._due:
            self._due = self._clock() + self._interval_s
            _LOG.info("building the engine: %s", progress)


class _Phase(NamedTuple):
    name: str
    steps: int
    step: int = 0


class PhaseStack:
    """The phases that TensorRT is in, the outermost first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._begun = clock, clock()
        self._phases: list[_Phase] = []

    def start(self, name: str, steps: int) -> None:
        """A phase of `steps` steps begins within the present one."""
        self._phases.append(_Phase(name, max(steps, 1)))

    def step(self, name: str, step: int) -> None:
        """Step number `step`, from 0, of a phase is done."""
        self._phases = [
            each._replace(step=min(step + 1, each.steps)) if each.name == name else each for each in self._phases
        ]

    def finish(self, name: str) -> None:
        """A phase, and whatever was in it, is over."""
        names = [each.name for each in self._phases]
        if name in names:
            del self._phases[names.index(name) :]

    def progress(self) -> BuildProgress | None:
        """Where the build is, None outside of every phase."""
        if not self._phases:
            return None
        done, share = 0.0, 1.0
        for phase in self._phases:
            done += share * phase.step / phase.steps
            share /= phase.steps
        elapsed = self._clock() - self._begun
        last, done = self._phases[-1], min(done, 1.0)
        left = elapsed * (1 - done) / done if done > 0 else None
        return BuildProgress(
            phase=last.name, step=last.step, steps=last.steps, done=done, elapsed_s=elapsed, left_s=left
        )


def make_monitor(trt: Any, tell: Callable[[BuildProgress], None], clock: Callable[[], float] = time.monotonic) -> Any:
    """An IProgressMonitor that gives `tell` the progress every now and then."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base is known only at run time
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._stack, self._told = PhaseStack(clock), float("-inf")

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._stack.start(phase_name, num_steps)
            self._tell()

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._stack.step(phase_name, step)
            self._tell()
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._stack.finish(phase_name)

        def _tell(self) -> None:
            now = clock()
            progress = self._stack.progress()
            if progress is not None and now - self._told >= _INTERVAL_S:
                self._told = now
                tell(progress)

    return Monitor()
