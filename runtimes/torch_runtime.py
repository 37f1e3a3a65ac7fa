"""The reference model itself behind the contract of the runtimes: what exports are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from rs4d_edge.contract import INPUT_NAMES, OUTPUT_NAMES, ModelContract
from rs4d_edge.errors import ClosedError, InputError, RuntimeFailure
from rs4d_edge.runtimes.contract import Array, TensorSpec, check_feeds, check_file, check_threads

_INPUT_DTYPES = {"frame": np.uint8, "valid_hw": np.int64}
_OUTPUT_DTYPES = {"boxes": np.float32, "scores": np.float32, "labels": np.int64, "masks": np.float32}


class FrameModel(Protocol):
    """What `TorchRuntime` needs of a reference model."""

    @property
    def contract(self) -> ModelContract:
        """Its shapes."""
        ...

    def __call__(self, frame: torch.Tensor, valid_hw: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Boxes, scores, labels and masks, in this order."""
        ...

    def eval(self) -> object:
        """Switch to inference."""
        ...


def open_model(model_path: Path, *, threads: int | None, precision: str) -> TorchRuntime:
    """Load a checkpoint (our safetensors or a published .pth) into the reference model, which computes in fp32."""
    check_file(model_path)
    if precision != "fp32":
        raise InputError(f"the reference model runs in fp32, not in {precision!r}")
    from rs4d_edge.reference import load

    return TorchRuntime(load(model_path), threads=threads)


class TorchRuntime:
    """A reference model on the CPU. Follows `rs4d_edge.runtimes.contract.Runtime`.

    The model is put into evaluation mode and stays the caller's. `threads` is torch's setting for the whole process,
    set for each run and put back after it.
    """

    def __init__(self, model: FrameModel, *, threads: int | None = None) -> None:
        check_threads(threads)
        model.eval()
        self._model: FrameModel | None = model
        self._threads = threads
        contract = model.contract
        self._inputs = tuple(
            TensorSpec(name, np.dtype(_INPUT_DTYPES[name]), contract.input_shapes[name]) for name in INPUT_NAMES
        )
        self._outputs = tuple(
            TensorSpec(name, np.dtype(_OUTPUT_DTYPES[name]), contract.output_shapes[name]) for name in OUTPUT_NAMES
        )

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` must be fed."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` answers with."""
        return self._outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `Runtime.run`."""
        if self._model is None:
            raise ClosedError("this torch runtime was closed; open another")
        check_feeds(self._inputs, feeds)
        # Copies, because torch warns about arrays that it may not write to.
        frame, valid_hw = (torch.from_numpy(np.array(feeds[name])) for name in INPUT_NAMES)
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(self._threads or before)
            with torch.inference_mode():
                values = self._model(frame, valid_hw)
        except RuntimeError as error:
            raise RuntimeFailure(f"torch failed while running the model: {error}") from error
        finally:
            torch.set_num_threads(before)
        return {spec.name: value.numpy() for spec, value in zip(self._outputs, values, strict=True)}

    def close(self) -> None:
        """Let go of the model."""
        self._model = None
