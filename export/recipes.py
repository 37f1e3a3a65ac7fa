"""What an export is to make: target, precision, input size and batch, fixed before the first step."""

from __future__ import annotations

from enum import Enum

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Target(str, Enum):
    """Where the bundle is to run.

    `ONNX`: one ONNX file of standard operators for ONNX Runtime's CPU provider (and any other reader of ONNX): weights
    and activations stay fp32; the scan is a model-local function.
    `CPU`: OpenVINO's IR for x86 and Arm processors; weights are stored in fp32; the scan is one native node, from an
    extension that is built where a C++ compiler is there, else plain operators.
    """

    ONNX = "onnx"
    CPU = "cpu"

    @property
    def runtime(self) -> str:
        """The runtime's name in the table of runtimes."""
        return {Target.ONNX: "onnxruntime", Target.CPU: "openvino"}[self]

    @property
    def model_file(self) -> str:
        """Name of the file in the bundle that the runtime opens."""
        return {Target.ONNX: "model.onnx", Target.CPU: "model.xml"}[self]

    @property
    def mask_rows(self) -> int:
        """For how many detections of a frame the masks are best made at a time, 0 for all rows, found or not.

        Few rows waste little on a frame's last pass; each pass costs some copies of its own.
        """
        return {Target.ONNX: 8, Target.CPU: 8}[self]


class Precision(str, Enum):
    """In what numbers the model computes.

    `FP32`: weights stored and all arithmetic in fp32.
    `BF16`: weights stored in fp32; the runtime rounds them and the activations of convolutions and matrix products to
    bf16 (8 bits of precision, the range of fp32) and accumulates in fp32. The scan stays in fp32. Only for processors
    with bf16 instructions; only OpenVINO has the kernels.
    `INT8`: convolutions and matrix products with weights take int8 weights (a symmetric scale for each output channel)
    and 8-bit inputs (a symmetric scale each, measured on calibration frames), and add up in int32. Scans and mixer
    cores, mask heads and everything else stay in fp32. Position embedding and mask head are stored in fp16.
    `INT8_BF16`: the same, and the runtime computes the rest in bf16, as in `BF16`.
    """

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"
    INT8_BF16 = "int8-bf16"

    @property
    def quantized(self) -> bool:
        """Whether it needs calibration frames."""
        return self in (Precision.INT8, Precision.INT8_BF16)

    @property
    def rest(self) -> Precision:
        """In what numbers everything is computed that is not quantized."""
        return Precision.BF16 if self in (Precision.BF16, Precision.INT8_BF16) else Precision.FP32


class ScanForm(str, Enum):
    """How the scan stands in a model file.

    `FUNCTION`: in ONNX, a node of our own with a body of standard operators, which any runtime can run.
    `NATIVE`: in OpenVINO's IR, one node each, computed by our kernel through the scan extension, which the device must
    have too. `PLAIN`: in OpenVINO's IR, standard operators, which run anywhere and are several times slower.
    """

    FUNCTION = "function"
    NATIVE = "native"
    PLAIN = "plain"


_PRECISIONS = {Target.ONNX: (Precision.FP32, Precision.INT8), Target.CPU: tuple(Precision)}


class Recipe(BaseModel):
    """One export. `image_size_hw` in pixels, multiples of 16; `batch` frames are run at once.

    `mask_rows` replaces the target's own choice of how many detections of a frame get their masks at a time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Target
    precision: Precision = Precision.FP32
    image_size_hw: tuple[int, int]
    batch: int = Field(1, ge=1)
    mask_rows: int | None = Field(None, ge=0)

    @property
    def masks_at_once(self) -> int:
        """`mask_rows`, or the target's own."""
        return self.target.mask_rows if self.mask_rows is None else self.mask_rows

    @model_validator(mode="after")
    def _precision_exists(self) -> Recipe:
        known = _PRECISIONS[self.target]
        if self.precision not in known:
            raise ValueError(
                f"target {self.target.value!r} has no precision {self.precision.value!r}, only "
                f"{', '.join(each.value for each in known)}: ONNX Runtime's CPU provider has no bf16 kernels for "
                f"matrix products and convolutions; use --target cpu for bf16"
            )
        return self
