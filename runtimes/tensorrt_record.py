"""What is known of a TensorRT engine when it is built, kept beside it: without a GPU nothing can be read from it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from rs4d_edge.manifest import Sha256


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class EngineTensor(_Record):
    """An input or output of the engine: its name, NumPy's name of its type, and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class EngineHost(_Record):
    """What an engine is built for and alone runs on: library and version, GPU, operating system and processor.

    `compute_capability` as in "8.7". `gpu` is the GPU's name, None for an engine that was built without one, for any
    GPU of that capability. `driver` is the version of NVIDIA's kernel driver and `jetpack` the release of a Jetson's
    system, as in "L4T 36.4.3"; None where the machine has or tells none, and without `gpu`.
    """

    library: str
    version: str
    compute_capability: str
    platform: str
    gpu: str | None = None
    driver: str | None = None
    jetpack: str | None = None

    @property
    def host(self) -> EngineHost:
        """These fields alone, without what a record has besides."""
        return EngineHost(**{name: getattr(self, name) for name in EngineHost.model_fields})

    def __str__(self) -> str:
        """For messages."""
        gpu = f"{self.gpu}, " if self.gpu else ""
        optional = ((self.driver, "driver "), (self.jetpack, ""))
        rest = "".join(f", {name}{value}" for value, name in optional if value)
        return (
            f"{self.library} {self.version}, {gpu}compute capability {self.compute_capability}, {self.platform}{rest}"
        )


class EngineRecord(EngineHost):
    """One engine file, and the machine it is for.

    `model` is the ONNX file it was built from. `plugins` must be registered before it is loaded. Memory in bytes:
    `weights` and `activations` as the builder reported them, None where it did not.
    """

    engine: str
    engine_sha256: Sha256
    model: str
    model_sha256: Sha256
    inputs: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    plugins: tuple[str, ...] = ()
    size_bytes: int = Field(ge=1)
    weights_bytes: int | None = None
    activations_bytes: int | None = None
    build_s: float | None = Field(None, ge=0)
