"""What `rs4d-info --target` shows; needs no torch."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from rs4d_edge.devices import PRESETS, DevicePreset, JetsonModule
from rs4d_edge.export.recipes import Target
from rs4d_edge.export.target_choice import choose_target

# Targets of rs4d-export that are no one device.
GENERAL_TARGETS = {
    Target.ONNX: "ONNX Runtime on any CPU",
    Target.CPU: "OpenVINO on x86 and Arm processors",
    Target.RTX: "TensorRT-RTX on NVIDIA GPUs, engines built ahead of time",
    Target.JETSON: f"TensorRT on an NVIDIA Jetson, the engine built on it; by device: {', '.join(PRESETS)}",
}


def show_target(name: str, console: Console) -> None:
    """Print what the target is, for a device as tables. Raises InputError for an unknown one, with those there are."""
    choice = choose_target(name)
    if choice.device is None:
        what = GENERAL_TARGETS[choice.target]
        said = f"{name}: {what}; {choice.precision.value} unless --precision names another"
        console.print(said, highlight=False, soft_wrap=True)
        return
    console.print(device_table(choice.device))
    console.print(modules_table(choice.device))
    console.print("From NVIDIA's documents, not measured:", *choice.device.sources, sep="\n  ", soft_wrap=True)


def device_table(device: DevicePreset) -> Table:
    """What all modules of the series share, and what an export takes."""
    table = Table("field", "value", show_header=False, title=f"{device.name}: {device.title}")
    table.add_row("GPU", f"{device.gpu}, compute capability {device.compute_capability} ({device.architecture})")
    for pack in device.jetpacks:
        versions = f"TensorRT {pack.tensorrt}, CUDA {pack.cuda}, Python {pack.python}, Ubuntu {pack.ubuntu}"
        table.add_row(f"JetPack {pack.version}", versions)
    size = device.image_size_hw
    table.add_row("precision", f"{device.precision}, unless --precision names another")
    table.add_row("input", f"{size[0]}x{size[1]} (height x width)" if size else "the model's own size")
    table.add_row("DLA", "not used: scans, selection and ROI pooling do not run there")
    return table


def modules_table(device: DevicePreset) -> Table:
    """Module by module; the power modes in the order of their IDs, from 0."""
    table = Table("module", "memory", "peak bandwidth", "DLA cores", "power modes", "in a Super configuration")
    for module in device.modules:
        table.add_row(
            *(module.name, f"{module.memory_gb} GB {device.memory_type}", _bandwidth(module), str(module.dla_cores)),
            *(_modes(module.power_modes), _modes(module.super_power_modes)),
        )
    table.caption = "Power modes as ID: name, for nvpmodel -m"
    return table


def _bandwidth(module: JetsonModule) -> str:
    more = f", Super {module.super_bandwidth_gb_s:g}" if module.super_bandwidth_gb_s else ""
    return f"{module.bandwidth_gb_s:g}{more} GB/s"


def _modes(names: tuple[str, ...]) -> str:
    return ", ".join(f"{number}: {name}" for number, name in enumerate(names))
