"""What an export is to make: target, precision, input size and batch, fixed before the first step."""

from __future__ import annotations

from enum import Enum

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Target(str, Enum):
    """Where the bundle is to run.

    `ONNX`: one ONNX file of standard operators for ONNX Runtime's CPU provider (and any other reader of ONNX); the scan
    is a model-local function.
    `CPU`: OpenVINO's IR for x86 and Arm processors; the scan is one native node, from an extension that is built where
    a C++ compiler is there, else plain operators.
    `RTX`: TensorRT-RTX engines for NVIDIA GPUs, one for each compute capability, and the ONNX file that they are built
    from, strongly typed: its types are those of weights and activations, int8 by symmetric Q/DQ pairs. Engines are
    built without a GPU and not run; what is compared is the ONNX file, in ONNX Runtime.
    `JETSON`: the same ONNX file for TensorRT on NVIDIA Jetson, and the sources of our plugin; the engine is built on
    the device, as engines run only on the GPU, driver and version that built them.
    """

    ONNX = "onnx"
    CPU = "cpu"
    RTX = "rtx"
    JETSON = "jetson"

    @property
    def runtime(self) -> str:
        """The name, in the table of runtimes, of the one that devices run the bundle in."""
        return {Target.ONNX: "onnxruntime", Target.CPU: "openvino"}.get(self, "tensorrt")

    @property
    def gate_runtime(self) -> str:
        """The runtime in which the exported file is compared with the reference, where no GPU is."""
        return "openvino" if self is Target.CPU else "onnxruntime"

    @property
    def model_file(self) -> str:
        """Name of the file in the bundle that the runtime opens."""
        return "model.xml" if self is Target.CPU else "model.onnx"

    @property
    def for_engines(self) -> bool:
        """Whether TensorRT builds engines from the file."""
        return self in (Target.RTX, Target.JETSON)

    @property
    def mask_rows(self) -> int:
        """For how many detections of a frame the masks are best made at a time, 0 for all rows, found or not.

        Few rows waste little on a frame's last pass; each pass costs some copies of its own. On a GPU all rows at once
        keep it busy, and a number of passes that depends on the frame could not be recorded once and replayed.
        """
        return 0 if self.for_engines else 8


class Precision(str, Enum):
    """In what numbers the model computes.

    `FP32`: weights stored and all arithmetic in fp32.
    `BF16`: weights stored in fp32; the runtime rounds them and the activations of convolutions and matrix products to
    bf16 (8 bits of precision, the range of fp32) and accumulates in fp32. The scan stays in fp32. Only for processors
    with bf16 instructions; only OpenVINO has the kernels.
    `FP16`: a strongly typed graph whose weights and activations are fp16 (11 bits of precision, up to 65504), with
    casts around what stays in fp32: scans and mixer cores, boxes and selection, and nodes that could overflow, found on
    calibration frames. On a CPU the file's half size is all that is gained: ONNX Runtime's CPU provider and OpenVINO on
    x86 have next to no fp16 kernels, so both convert the weights when they load and compute in fp32.
    `INT8`: convolutions and matrix products with weights take int8 weights (a symmetric scale for each output channel)
    and 8-bit inputs (a symmetric scale each, measured on calibration frames), and add up in int32. Scans and mixer
    cores, mask heads and everything else stay in fp32. Position embedding and mask head are stored in fp16.
    `INT8_BF16`: the same, and the runtime computes the rest in bf16, as in `BF16`.
    `INT8_FP16`: the same layers in int8, and the rest a strongly typed graph as in `FP16`, with its islands of fp32.
    For engines on GPUs alone, to which fp32 between int8 layers is slow.
    """

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"
    INT8_BF16 = "int8-bf16"
    INT8_FP16 = "int8-fp16"

    @property
    def quantized(self) -> bool:
        """Whether layers become int8, with scales from calibration frames."""
        return self in (Precision.INT8, Precision.INT8_BF16, Precision.INT8_FP16)

    @property
    def needs_frames(self) -> bool:
        """Whether it cannot do without calibration frames."""
        return self.quantized or self is Precision.FP16

    @property
    def takes_frames(self) -> bool:
        """Whether there is anything to measure on calibration frames; for bf16, how large its tensors become."""
        return self.needs_frames or self is Precision.BF16

    @property
    def rest(self) -> Precision:
        """In what numbers everything is computed that is not quantized."""
        if self in (Precision.BF16, Precision.INT8_BF16):
            return Precision.BF16
        return Precision.FP16 if self in (Precision.FP16, Precision.INT8_FP16) else Precision.FP32


class ScanForm(str, Enum):
    """How the scan stands in a model file.

    `FUNCTION`: in ONNX, a node of our own with a body of standard operators, which any runtime can run.
    `NATIVE`: in OpenVINO's IR, one node each, computed by our kernel through the scan extension, which the device must
    have too. `PLAIN`: in OpenVINO's IR and for TensorRT, standard operators, which run anywhere and are several times
    slower. `PLUGIN`: for TensorRT, nodes with bodies as in `FUNCTION`, of mixers' cores, NMS and RoIAlign; in engines
    our plugins, which the device must register.
    """

    FUNCTION = "function"
    NATIVE = "native"
    PLAIN = "plain"
    PLUGIN = "plugin"


_PRECISIONS = {
    Target.ONNX: (Precision.FP32, Precision.FP16, Precision.INT8),
    Target.CPU: tuple(each for each in Precision if each is not Precision.INT8_FP16),
    Target.RTX: (Precision.FP32, Precision.FP16, Precision.INT8, Precision.INT8_FP16),
    Target.JETSON: (Precision.FP32, Precision.FP16, Precision.INT8, Precision.INT8_FP16),
}
_NO_BF16 = {
    Target.ONNX: "ONNX Runtime's CPU provider has no bf16 kernels for matrix products and convolutions",
    Target.RTX: "graphs for it are typed in fp32, fp16 and int8",
    Target.JETSON: "graphs for it are typed in fp32, fp16 and int8",
}
ENGINE_SCANS = (ScanForm.PLAIN, ScanForm.PLUGIN)
RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")  # of tensorrt_rtx 1.7; Jetson's 8.7 is not among them


class Recipe(BaseModel):
    """One export. `image_size_hw` in pixels, multiples of 16; `batch` frames are run at once.

    `mask_rows` replaces the target's own choice of how many detections of a frame get their masks at a time.
    `compute_capabilities` are those of the GPUs that engines are built for, for the target `rtx` alone; `scan` is the
    scan's form in engines, by default plain operators for `rtx` and our plugin for `jetson`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Target
    precision: Precision = Precision.FP32
    image_size_hw: tuple[int, int]
    batch: int = Field(1, ge=1)
    mask_rows: int | None = Field(None, ge=0)
    compute_capabilities: tuple[str, ...] = ()
    scan: ScanForm | None = None

    @property
    def masks_at_once(self) -> int:
        """`mask_rows`, or the target's own."""
        return self.target.mask_rows if self.mask_rows is None else self.mask_rows

    @model_validator(mode="after")
    def _precision_exists(self) -> Recipe:
        known = _PRECISIONS[self.target]
        if self.precision not in known:
            why = f"{_NO_BF16.get(self.target)}; use --target cpu for bf16"
            if self.precision is Precision.INT8_FP16:
                why = "processors would compute its fp16 in fp32; use --precision int8, or --target rtx or jetson"
            raise ValueError(
                f"target {self.target.value!r} has no precision {self.precision.value!r}, only "
                f"{', '.join(each.value for each in known)}: {why}"
            )
        return self

    @property
    def engine_scan(self) -> ScanForm:
        """`scan`, or the target's own. Jetson's is the plugin, because its GPUs are too small for plain operators."""
        return self.scan or (ScanForm.PLUGIN if self.target is Target.JETSON else ScanForm.PLAIN)

    @model_validator(mode="after")
    def _engine_options_fit(self) -> Recipe:
        if not self.target.for_engines:
            if self.compute_capabilities or self.scan is not None:
                raise ValueError(
                    f"compute capabilities are for --target rtx, --scan for rtx and jetson, not {self.target.value!r}"
                )
            return self
        if self.scan not in (None, *ENGINE_SCANS):
            raise ValueError(
                f"the scan is {' or '.join(each.value for each in ENGINE_SCANS)} in engines, not {self.scan.value!r}"
            )
        if self.masks_at_once:
            raise ValueError(
                f"target {self.target.value!r} makes all masks at once: expected mask_rows 0, got {self.masks_at_once}"
            )
        return self

    @model_validator(mode="after")
    def _gpus_are_known(self) -> Recipe:
        given, known = self.compute_capabilities, ", ".join(RTX_CAPABILITIES)
        if self.target is Target.JETSON and given:
            raise ValueError(
                "target 'jetson' builds no engine here, and takes no compute capability: run rs4d-export build BUNDLE "
                "on the device"
            )
        if self.target is not Target.RTX:
            return self
        if not given:
            raise ValueError(f"target 'rtx' builds engines for GPUs: give --compute-capability, of {known}")
        if unknown := [each for each in given if each not in RTX_CAPABILITIES]:
            raise ValueError(
                f"TensorRT-RTX builds nothing for compute capability {', '.join(unknown)}, only for {known}; engines "
                "for Jetson (8.7) are built on the device: --target jetson"
            )
        return self
