"""What a bundle's manifest says of its number formats: calibrated on what, what is quantized, what stays in fp32."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Setting = str | int | float | bool


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CalibrationIdentity(_Record):
    """Everything that decides the result of a calibration. Two that are equal give the same numbers.

    `weights` is the SHA-256 of the source weights, `frames` that of the decoded RGB pixels, `preprocessing` that of the
    bytes that were fed to the graph, `settings` how it was done, `tools` the versions of what did it.
    """

    weights: _Sha256
    frames: _Sha256
    preprocessing: _Sha256
    settings: dict[str, Setting]
    tools: dict[str, str]

    def differences(self, other: CalibrationIdentity) -> list[str]:
        """In words, what is different in `other`; empty if nothing is."""
        found = [name for name in ("weights", "frames", "preprocessing") if getattr(self, name) != getattr(other, name)]
        for what in ("settings", "tools"):
            mine, others = getattr(self, what), getattr(other, what)
            found += [
                f"{what.removesuffix('s')} {name} ({mine.get(name, 'not set')}, now {others.get(name, 'not set')})"
                for name in sorted({*mine, *others})
                if mine.get(name) != others.get(name)
            ]
        return found


class AccuracyStep(_Record):
    """One measurement: mask AP with the layers `restored` in high precision, and why it was made.

    `latency_ratio`: the time of a run over that of the model in fp32, both by turns in one process; None if that was
    not measured.
    """

    why: str
    restored: tuple[str, ...]
    mask_ap: float = Field(ge=0, le=1)
    latency_ratio: float | None = Field(None, gt=0)


class AccuracyRecord(_Record):
    """How layers were chosen by accuracy, measured through the runtime on `images` annotated images.

    `data` is the SHA-256 of the annotation file. `float_ap` is the mask AP without any int8, in the same runtime,
    `int8_ap` that with the layers chosen, and `met` whether it is within `max_drop`. `steps` are all measurements, in
    their order.
    """

    data: _Sha256
    images: int = Field(ge=1)
    max_drop: float = Field(ge=0, le=1)
    float_ap: float = Field(ge=0, le=1)
    int8_ap: float = Field(ge=0, le=1)
    met: bool
    steps: tuple[AccuracyStep, ...]


class QuantizationRecord(_Record):
    """How a bundle's model was quantized.

    `key` is the SHA-256 of `identity`; `source` names where the `frames` frames came from. `quantized` and
    `high_precision` are the layers, by the names of the exported graph's nodes, whose weights and inputs are int8, and
    those with weights that are not. `rest` is the number format of everything that is not quantized. `accuracy` is
    there if layers were chosen by measured accuracy.
    """

    key: _Sha256
    identity: CalibrationIdentity
    source: str
    frames: int = Field(ge=1)
    quantized: tuple[str, ...]
    high_precision: tuple[str, ...]
    rest: str
    accuracy: AccuracyRecord | None = None


class Fp32Island(_Record):
    """A node that computes in fp32 amid fp16, because `tensor`, which it reads or writes, reaches `largest`."""

    node: str
    tensor: str
    largest: float = Field(gt=0)


class RangeRecord(_Record):
    """How large the tensors became on calibration frames, and which nodes stay in fp32 therefore.

    `pixels` is the SHA-256 of the frames' decoded RGB pixels; `source` names where the `frames` frames came from.
    `limit` is the largest magnitude that was left to fp16, a part of its 65504. `largest` has the magnitude of each
    tensor in fp16 by its name in the fp32 graph. `islands` were chosen by it; what is always in fp32 is not listed.
    """

    pixels: _Sha256
    source: str
    frames: int = Field(ge=1)
    limit: float = Field(gt=0)
    largest: dict[str, float]
    islands: tuple[Fp32Island, ...]
