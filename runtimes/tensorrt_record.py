"""What is known of a TensorRT engine when it is built, kept beside it: without a GPU nothing can be read from it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class EngineTensor(BaseModel):
    """An input or output of the engine: its name, NumPy's name of its type, and its shape."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dtype: str
    shape: tuple[int, ...]


class EngineRecord(BaseModel):
    """One engine file.

    `library` and `version` built it and alone can load it; `compute_capability` is the GPU's, `platform` the operating
    system's and processor's. `plugins` must be registered before it is loaded. Memory in bytes: `weights` and
    `activations` as the builder reported them, None where it did not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: str
    model: str
    library: str
    version: str
    compute_capability: str
    platform: str
    inputs: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    plugins: tuple[str, ...] = ()
    size_bytes: int = Field(ge=1)
    weights_bytes: int | None = None
    activations_bytes: int | None = None
