"""What `rs4d-info` shows of models: their costs, and what is in a checkpoint. Needs torch, as the reference does."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rs4d_edge.reference.checkpoints import CONFIG_KEY, KIND_KEY, load_metadata, load_state
from rs4d_edge.reference.config import DetectorConfig, EncoderConfig, NeckType
from rs4d_edge.reference.counting import ModelCost, count
from rs4d_edge.reference.presets import PRESETS, preset
from rs4d_edge.reference.published import infer_config
from rs4d_edge.reference.shipped import shipped_names, shipped_path

# SAM's image encoders at 1024x1024: millions of parameters, GFLOP (Kirillov et al., arXiv 2304.02643; counted by the
# same rule). The paper's encoder of each line was distilled from that teacher.
SAM_ENCODERS = {"base": ("ViT-B", 89.7, 972.0), "large": ("ViT-L", 308.3, 2986.0), "huge": ("ViT-H", 637.0, 5961.0)}
PAPER_CLAIM = "8x fewer parameters, 9x fewer FLOPs"


def show_shipped() -> None:
    """Print the names of the models with weights, one a line."""
    for name in shipped_names():
        print(name)


def show_presets(console: Console) -> None:
    """Print the costs of all presets, and the paper's encoders beside their teachers."""
    costs = {name: count(config) for name, config in PRESETS.items()}
    models = Table("model", "input", title="Models: one frame, batch 1", caption="* comes with trained weights")
    for heading in ("encoder M", "whole M", "encoder GFLOP", "whole GFLOP"):
        models.add_column(heading, justify="right")
    shipped = shipped_names()
    for name, cost in costs.items():
        height, width = PRESETS[name].encoder.image_size_hw
        models.add_row(f"{name}{' *' if name in shipped else ''}", f"{height}x{width}", *_figures(cost))
    console.print(models)
    console.print(teacher_table(costs))


def _figures(cost: ModelCost) -> list[str]:
    parts = (cost.encoder, cost.total)
    return [f"{part.parameters / 1e6:.2f}" for part in parts] + [f"{part.flops / 1e9:.1f}" for part in parts]


def teacher_table(costs: dict[str, ModelCost]) -> Table:
    """The paper's encoders beside the SAM encoders that they were distilled from; the claim beside what is counted."""
    table = Table("SAM encoder", "M", "GFLOP", "RS4D encoder", "M", "GFLOP", "fewer parameters", "fewer FLOPs")
    table.title = "Encoders at 1024x1024 beside their teachers"
    table.caption = f"The paper claims {PAPER_CLAIM}. FLOPs count the scan and the shared projections once."
    for size, (teacher, millions, gflop) in SAM_ENCODERS.items():
        cost = costs[f"rs4d-{size}-bbox"].encoder
        ours = cost.parameters / 1e6, cost.flops / 1e9
        table.add_row(
            *(teacher, f"{millions:.1f}", f"{gflop:.0f}", size, f"{ours[0]:.2f}", f"{ours[1]:.1f}"),
            *(f"{millions / ours[0]:.1f}x", f"{gflop / ours[1]:.1f}x"),
        )
    return table


def show_model(source: str, console: Console) -> None:
    """Print configuration, costs and metadata of a file, a shipped model or a preset."""
    path = shipped_path(source) if source in shipped_names() else Path(source)
    if not path.exists() and path.suffix == "" and path.name == source:
        config: DetectorConfig | EncoderConfig = preset(source)
        origin, metadata = "preset without weights", {}
    else:
        state, stored = load_state(path)
        config, metadata = stored or infer_config(state), load_metadata(path)
        origin = f"{path}, configuration {'stored in it' if stored else 'inferred from its keys and shapes'}"
    console.print(origin, markup=False, soft_wrap=True)
    table = Table("field", "value", show_header=False)
    for key, value in summary(config).items():
        table.add_row(key, escape(value))
    for key, value in metadata.items():
        if key not in (CONFIG_KEY, KIND_KEY):
            table.add_row(escape(key), escape(value))
    console.print(table)


def summary(config: DetectorConfig | EncoderConfig) -> dict[str, str]:
    """The configuration in words and numbers, with what it costs if it is a whole detector."""
    encoder = config if isinstance(config, EncoderConfig) else config.encoder
    height, width = encoder.image_size_hw
    rows = {
        "encoder": f"{encoder.depth} layers, C {encoder.channels}, E {encoder.inner_channels}, N {encoder.state_size}",
        "path": encoder.path.value,
        "input": f"{height}x{width} (height x width)",
        "stem": "16x16 patches" if encoder.stem_channels is None else f"convolutions, widths {encoder.stem_channels}",
    }
    if isinstance(config, EncoderConfig):
        return {"kind": "encoder", **rows}
    cost = count(config)
    neck = config.neck
    reads = f", encoder maps {', '.join(map(str, neck.layers))}" if neck.type is NeckType.SIMPLE else ""
    return {
        "kind": f"detector {config.name}, {config.head.value} head",
        "classes": ", ".join(config.classes),
        **rows,
        "neck": f"{neck.type.value}, {neck.channels} channels, strides {config.proposals.strides}{reads}",
        "proposals": f"{config.proposals.proposals}, anchor scales {config.proposals.scales}",
        "post-processing": json.dumps(config.model_dump(include={"score_threshold", "nms_iou", "max_detections"})),
        "parameters": f"{cost.total.parameters / 1e6:.2f} M, of which encoder {cost.encoder.parameters / 1e6:.2f} M",
        "work": f"{cost.total.flops / 1e9:.1f} GFLOP, of which encoder {cost.encoder.flops / 1e9:.1f} GFLOP",
    }
