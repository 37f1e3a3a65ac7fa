"""Builds the native scan at install where a C++ compiler is there; everything else stands in pyproject.toml."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def load_builder() -> types.ModuleType:
    """`rs4d_edge.native.build` from this folder, without importing the package, whose dependencies may be absent."""
    for name, path in (("errors", "errors.py"), ("native.build", "native/build.py")):
        full = f"rs4d_edge.{name}"
        for parent in ("rs4d_edge", "rs4d_edge.native"):
            sys.modules.setdefault(parent, types.ModuleType(parent))
        spec = importlib.util.spec_from_file_location(full, ROOT / "rs4d_edge" / path)
        if spec is None or spec.loader is None:
            raise RuntimeError(f"{path} is missing from the source tree")
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)
    return module


BUILDER = load_builder()


class OptionalNativeBuild(build_ext):
    """Calls the same builder as `python -m rs4d_edge.native.build`, and installs without the library if it fails."""

    def run(self) -> None:
        """Build into the wheel's tree, or beside the sources for an editable install."""
        package = ROOT / "rs4d_edge" / "native"
        folder = package if self.editable_mode else Path(self.build_lib) / "rs4d_edge" / "native"
        try:
            path = BUILDER.build_kernel(folder)
        except Exception as error:  # whatever is wrong with a compiler must not stop the install
            self.warn(f"rs4d-edge is installed without its native scan, which makes it slower: {error}")
        else:
            self.announce(f"built the native scan: {path}", level=2)

    def get_outputs(self) -> list[str]:
        """What setuptools records as installed."""
        built = Path(self.build_lib) / "rs4d_edge" / "native" / BUILDER.LIBRARY_NAME
        return [str(built)] if built.is_file() else []

    def get_output_mapping(self) -> dict[str, str]:
        """Nothing is mapped: an editable install's library already lies in its place."""
        return {}


setup(
    # The one extension makes setuptools run the command above and mark the wheel with its platform.
    ext_modules=[Extension("rs4d_edge.native._rs4d_scan", sources=[])],
    cmdclass={"build_ext": OptionalNativeBuild},
)
