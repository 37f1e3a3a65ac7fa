"""A process of its own, since TensorRT-RTX may end it: `python tensorrt_plugin_load.py LIBRARY MODEL`.

Loads the plugins, parses the model with them and builds an engine, all without a GPU, and prints what came of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import tensorrt_rtx


def main() -> None:
    """Print a JSON object: the creators found, how many layers are plugins, the output, and the engine's size."""
    trt: Any = tensorrt_rtx
    log = trt.Logger(trt.Logger.ERROR)
    registry = trt.get_plugin_registry()
    registry.load_library(sys.argv[1])
    creators = [each.name for each in registry.all_creators if each.plugin_namespace == "rs4d"]
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    answer: dict[str, Any] = {"creators": creators, "parsed": False}
    if trt.OnnxParser(network, log).parse(Path(sys.argv[2]).read_bytes()):
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        engine = builder.build_serialized_network(network, config)
        answer |= {
            "parsed": True,
            "plugins": sum(layer.type == trt.LayerType.PLUGIN_V3 for layer in layers),
            "output": [*network.get_output(0).shape],
            "type": network.get_output(0).dtype.name,
            "engine_bytes": 0 if engine is None else engine.nbytes,
        }
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
