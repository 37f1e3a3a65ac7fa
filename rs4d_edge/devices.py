"""NVIDIA Jetson devices by name: what their modules and JetPacks have, and what `rs4d-export` chooses for them.

What is said of the modules is NVIDIA's and was not measured by us. Each preset names the pages; those of all:

- compute capability: https://developer.nvidia.com/cuda-gpus
- CUDA 13 calls Thor's GPU sm_110, CUDA 12.9 and older sm_101: https://docs.nvidia.com/cuda/nvcompdx/release_notes.html
- JetPack: https://developer.nvidia.com/embedded/jetpack/downloads and its archive
- DLA: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-with-dla.html

Choices that are ours, for all presets:

- fp16: tensor cores of both GPUs compute it, and it halves weights and activations. Calibration frames only show what
  would overflow; int8 takes its ranges from them and can lose accuracy, so it must be asked for.
- No DLA. It is made for convolutional networks, its activations are ReLU, Sigmoid, TanH and Clip
  (.../inference-library/dla-layer-restrictions.html), and plugins are for the GPU: scans, selection and ROI pooling
  would run on the GPU all the same, with a copy at each border. Orin Nano and Thor have no DLA, and TensorRT from 10.8
  to 11.3, which is JetPack 7.2's, does not drive it.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class JetsonModule(_Facts):
    """One module of a series.

    `memory_gb` is shared by CPU and GPU; `bandwidth_gb_s` is its theoretical peak, in the modes that a "Super"
    configuration brings (JetPack 6.2 and newer) `super_bandwidth_gb_s` where that differs and NVIDIA tells it.
    `power_modes` and `super_power_modes` are nvpmodel's names; a mode's place in the row is the ID for `nvpmodel -m`.
    """

    name: str
    memory_gb: int
    bandwidth_gb_s: float
    super_bandwidth_gb_s: float | None = None
    dla_cores: int
    power_modes: tuple[str, ...]
    super_power_modes: tuple[str, ...] = ()


class JetPack(_Facts):
    """Versions of one JetPack; `python` is that of its Ubuntu, for which its `tensorrt` module is made."""

    version: str
    tensorrt: str
    cuda: str
    python: str
    ubuntu: str


class DevicePreset(_Facts):
    """A series of modules, and what an export for it takes unless told otherwise.

    `architecture` is the GPU's name in CUDA 13. `precision` is one of `rs4d-export --precision`, `image_size_hw` its
    `--image-size`: (height, width) in pixels, None for the model's own.
    """

    name: str
    title: str
    modules: tuple[JetsonModule, ...]
    memory_type: str
    gpu: str
    compute_capability: str
    architecture: str
    jetpacks: tuple[JetPack, ...]
    precision: str = "fp16"
    image_size_hw: tuple[int, int] | None = None
    sources: tuple[str, ...]


_JETPACK_6 = JetPack(version="6.2", tensorrt="10.3", cuda="12.6", python="3.10", ubuntu="22.04")
_JETPACK_7_0 = JetPack(version="7.0", tensorrt="10.13", cuda="13.0", python="3.12", ubuntu="24.04")
_JETPACK_7_2 = JetPack(version="7.2", tensorrt="10.16", cuda="13.2", python="3.12", ubuntu="24.04")

_POWER = "https://docs.nvidia.com/jetson/archives/{}/DeveloperGuide/SD/PlatformPowerAndPerformance/{}.html"
_ORIN_POWER = _POWER.format("r36.4.4", "JetsonOrinNanoSeriesJetsonOrinNxSeriesAndJetsonAgxOrinSeries")
_ORIN = {
    "memory_type": "LPDDR5",
    "gpu": "Ampere",
    "compute_capability": "8.7",
    "architecture": "sm_87",
    "jetpacks": (_JETPACK_6, _JETPACK_7_2),
}
_NX_MODES = ("10W", "15W")  # between MAXN and what the two modules of the series do not share

# The edge family is made for 640x640 and takes it anyway. For a model at 1024x1024 that is 39 % of the pixels, on
# modules with half of AGX Orin's bandwidth and less; another size than that of training costs accuracy:
# compare AP with --val, or give --image-size.
_SMALL_HW = (640, 640)

PRESETS = {
    preset.name: preset
    for preset in (
        DevicePreset(
            name="jetson-orin-nano",
            title="NVIDIA Jetson Orin Nano",
            modules=(
                JetsonModule(
                    name="Orin Nano 4GB",
                    memory_gb=4,
                    bandwidth_gb_s=34,
                    dla_cores=0,
                    power_modes=("10W", "7W_AI", "7W_CPU"),
                    super_power_modes=("10W", "25W", "MAXN_SUPER"),
                ),
                JetsonModule(
                    name="Orin Nano 8GB",
                    memory_gb=8,
                    bandwidth_gb_s=68,
                    super_bandwidth_gb_s=102,
                    dla_cores=0,
                    power_modes=("15W", "7W"),
                    super_power_modes=("15W", "25W", "MAXN_SUPER"),
                ),
            ),
            image_size_hw=_SMALL_HW,
            sources=("Jetson Orin Nano Series Data Sheet DS-11105-001", _ORIN_POWER),
            **_ORIN,
        ),
        DevicePreset(
            name="jetson-orin-nx",
            title="NVIDIA Jetson Orin NX",
            modules=(
                JetsonModule(
                    name="Orin NX 8GB",
                    memory_gb=8,
                    bandwidth_gb_s=102,
                    dla_cores=1,
                    power_modes=("MAXN", *_NX_MODES, "20W"),
                    super_power_modes=("MAXN_SUPER", *_NX_MODES, "20W", "40W"),
                ),
                JetsonModule(
                    name="Orin NX 16GB",
                    memory_gb=16,
                    bandwidth_gb_s=102,
                    dla_cores=2,
                    power_modes=("MAXN", *_NX_MODES, "25W"),
                    super_power_modes=("MAXN_SUPER", *_NX_MODES, "25W", "40W"),
                ),
            ),
            image_size_hw=_SMALL_HW,
            sources=("https://developer.nvidia.com/downloads/jetson-orin-nx-module-series-data-sheet", _ORIN_POWER),
            **_ORIN,
        ),
        DevicePreset(
            name="jetson-agx-orin",
            title="NVIDIA Jetson AGX Orin",
            modules=(
                JetsonModule(
                    name="AGX Orin 32GB",
                    memory_gb=32,
                    bandwidth_gb_s=204.8,
                    dla_cores=2,
                    power_modes=("MAXN", "MODE_15W", "MODE_30W", "MODE_40W"),
                ),
                JetsonModule(
                    name="AGX Orin 64GB",
                    memory_gb=64,
                    bandwidth_gb_s=204.8,
                    dla_cores=2,
                    power_modes=("MAXN", "MODE_15W", "MODE_30W", "MODE_50W"),
                ),
            ),
            sources=("Jetson AGX Orin Series Modules Data Sheet DS-10662-001", _ORIN_POWER),
            **_ORIN,
        ),
        DevicePreset(
            name="jetson-thor",
            title="NVIDIA Jetson Thor",
            modules=(
                JetsonModule(name="T4000", memory_gb=64, bandwidth_gb_s=273, dla_cores=0, power_modes=("MAXN", "70W")),
                JetsonModule(
                    name="T5000",
                    memory_gb=128,
                    bandwidth_gb_s=273,
                    dla_cores=0,
                    power_modes=("MAXN", "120W", "90W", "70W"),
                ),
            ),
            memory_type="LPDDR5X",
            gpu="Blackwell",
            compute_capability="11.0",
            architecture="sm_110",
            jetpacks=(_JETPACK_7_0, _JETPACK_7_2),
            sources=(
                "Jetson Thor Series Modules Data Sheet DS-11945-001",
                _POWER.format("r38.4", "JetsonThor"),
            ),
        ),
    )
}
