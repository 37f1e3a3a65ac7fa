"""What `--target` names: a target, or one device, which stands for a target with that device's choices."""

from __future__ import annotations

import difflib
from typing import NamedTuple

from rs4d_edge.devices import PRESETS, DevicePreset
from rs4d_edge.errors import InputError
from rs4d_edge.export.recipes import Precision, Target


class TargetChoice(NamedTuple):
    """A target, and the device if one was named."""

    target: Target
    device: DevicePreset | None = None

    @property
    def precision(self) -> Precision:
        """What is taken if `--precision` says nothing: on a Jetson fp16, elsewhere fp32."""
        if self.device is not None:
            return Precision(self.device.precision)
        return Precision.FP16 if self.target is Target.JETSON else Precision.FP32

    def image_size_hw(self, own_hw: tuple[int, int]) -> tuple[int, int]:
        """What is taken if `--image-size` says nothing: the device's choice, else the model's own."""
        return (self.device.image_size_hw if self.device else None) or own_hw


def choose_target(name: str) -> TargetChoice:
    """The target or device of that name. Raises InputError with those there are."""
    if name in PRESETS:
        return TargetChoice(Target.JETSON, PRESETS[name])
    targets = [each.value for each in Target]
    if name in targets:
        return TargetChoice(Target(name))
    known = [*targets, *PRESETS]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise InputError(f"there is no target {name!r}{hint} Known are: {', '.join(known)}")
