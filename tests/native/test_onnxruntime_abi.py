"""Our declaration of ONNX Runtime's C interface against real headers, and against runtimes real and feigned."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from rs4d_edge.errors import RuntimeUnavailable
from rs4d_edge.native.build import SOURCE_DIR, find_compiler
from rs4d_edge.native.library import ABI_VERSION
from rs4d_edge.runtimes import onnxruntime_scan

INCLUDE_VARIABLE = "RS4D_ONNXRUNTIME_INCLUDE"
HEADER = "onnxruntime_c_api.h"
DECLARATION = SOURCE_DIR / "onnxruntime_abi.h"

POSITIONS = {
    "CreateStatus": 0,
    "CreateCustomOpDomain": 26,
    "CustomOpDomain_Add": 27,
    "AddCustomOpDomain": 28,
    "GetTensorMutableData": 51,
    "CreateTensorTypeAndShapeInfo": 57,
    "SetTensorElementType": 58,
    "SetDimensions": 59,
    "GetDimensionsCount": 61,
    "GetDimensions": 62,
    "GetTensorTypeAndShape": 65,
    "KernelInfoGetAttribute_int64": 86,
    "KernelContext_GetInput": 90,
    "KernelContext_GetOutput": 91,
    "ReleaseStatus": 93,
    "ReleaseTensorTypeAndShapeInfo": 99,
    "ReleaseCustomOpDomain": 101,
    "ShapeInferContext_GetInputTypeShape": 268,
    "ShapeInferContext_SetOutputTypeShape": 270,
    "SetSymbolicDimensions": 271,
    "KernelContext_ParallelFor": 274,
}
# Signatures are compared with the names of enums and of the structs that we declare ourselves taken out.
CHECKS = """
#include <onnxruntime_c_api.h>
#include <type_traits>
#include "onnxruntime_abi.h"
namespace ours = rs4d::ort;
template <typename T, typename = void> struct Plain { using type = T; };
template <typename T> struct Plain<T, std::enable_if_t<std::is_enum_v<T>>> { using type = char[sizeof(T)]; };
template <> struct Plain<const OrtCustomOp*> { using type = const ours::CustomOp*; };
template <> struct Plain<const OrtApi*> { using type = const ours::Api*; };
template <typename...> struct List {};
template <typename R, typename... A> struct Plain<R (*)(A...)> {
  using type = List<typename Plain<R>::type, typename Plain<A>::type...>;
};
template <typename R, typename... A> struct Plain<R (*)(A...) noexcept> {
  using type = List<std::true_type, typename Plain<R>::type, typename Plain<A>::type...>;
};
#define SAME(THEIRS, OURS, NAME)                                                                       \\
  static_assert(offsetof(THEIRS, NAME) == offsetof(OURS, NAME), "the position of " #NAME);             \\
  static_assert(std::is_same_v<Plain<decltype(THEIRS::NAME)>::type, Plain<decltype(OURS::NAME)>::type>, \\
                "the signature of " #NAME);
static_assert(ORT_API_VERSION >= ours::kApiVersion, "older headers lack what is compared");
static_assert(ORT_FAIL == ours::kFail && ORT_INVALID_ARGUMENT == ours::kInvalidArgument);
static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT == ours::kFloat);
static_assert(INPUT_OUTPUT_REQUIRED == ours::kRequired && OrtMemTypeDefault == ours::kDefaultMemory);
#if ORT_API_VERSION > 17
static_assert(sizeof(ours::CustomOp) == offsetof(OrtCustomOp, GetMayInplace), "what version 18 adds comes next");
#endif
"""


def _members(struct: str) -> list[str]:
    """The members of a struct in our declaration, the gaps left out."""
    text = re.sub(r"//.*", "", DECLARATION.read_text())
    body = text.split(f"struct {struct} {{")[1].split("\n};")[0]
    statements = [statement.strip() for statement in body.split(";")[:-1] if "Skipped" not in statement]
    found = [re.search(r"RS4D_ORT_CALL\* (\w+)\)|(\w+)$", statement) for statement in statements]
    assert all(found), statements
    return [match[1] or match[2] for match in found if match]


def _header_folder() -> Path:
    named = os.environ.get(INCLUDE_VARIABLE)
    folder = Path(named or "/usr/include/onnxruntime")
    if not (folder / HEADER).is_file():
        pytest.skip(f"{HEADER} is not in {folder}: install libonnxruntime-dev or set {INCLUDE_VARIABLE}")
    return folder


def _compiler() -> str:
    try:
        return find_compiler()
    except RuntimeUnavailable as error:
        pytest.skip(str(error))


def _compile(source: Path, text: str, *flags: str) -> None:
    source.write_text(text)
    command = [_compiler(), "-std=c++17", "-fsyntax-only", "-w", str(source), "-I", str(SOURCE_DIR), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000]


def test_the_gaps_add_up(tmp_path: Path) -> None:
    """Needs no header: the positions are written down here once more."""
    assert set(_members("Api")) == set(POSITIONS)
    lines = ['#include "onnxruntime_abi.h"', "using namespace rs4d::ort;"]
    for name, position in POSITIONS.items():
        lines.append(f'static_assert(offsetof(Api, {name}) == {position} * sizeof(void*), "{name}");')
    lines.append("static_assert(sizeof(CustomOp) == 22 * sizeof(void*) && alignof(CustomOp) == sizeof(void*));")
    _compile(tmp_path / "gaps.cpp", "\n".join(lines))


def test_positions_and_signatures_are_the_headers(tmp_path: Path) -> None:
    folder = _header_folder()
    structs = {"Api": "OrtApi", "ApiBase": "OrtApiBase", "CustomOp": "OrtCustomOp"}
    lines = [f"SAME(::{theirs}, ours::{mine}, {name})" for mine, theirs in structs.items() for name in _members(mine)]
    _compile(tmp_path / "headers.cpp", CHECKS + "\n".join(lines) + "\n", "-isystem", str(folder))


@pytest.fixture(scope="module")
def library_path() -> Path:
    """The library in its place, built if it is not there; skips where there is no compiler."""
    path = onnxruntime_scan.library_path()
    if not path.is_file():
        _compiler()
        onnxruntime_scan.build_scan_library()
    return path


def test_the_library_loads_without_a_runtime(library_path: Path) -> None:
    program = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).rs4d_abi_version())"
    done = subprocess.run([sys.executable, "-c", program, library_path], capture_output=True, text=True, check=False)
    assert done.stdout == f"{ABI_VERSION}\n", done.stderr


def test_the_installed_runtime_takes_it_again_and_again(library_path: Path) -> None:
    """The last session options to go unload it, and take its domain with them."""
    for _ in range(3):
        options = [onnxruntime.SessionOptions() for _ in range(2)]
        for each in options:
            onnxruntime_scan.register_library(each, library_path)


CREATE_STATUS = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
GET_API = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
GET_VERSION = ctypes.CFUNCTYPE(ctypes.c_void_p)


class _ApiBase(ctypes.Structure):
    _fields_ = (("get_api", GET_API), ("get_version_string", GET_VERSION))


@pytest.mark.parametrize("version", [b"1.16.3", b"1.9.0", b"unheard of"])
def test_a_runtime_that_is_too_old_is_told_so(library_path: Path, version: bytes) -> None:
    """A feigned one, with nothing in its table but CreateStatus: nothing else may be called."""
    told: list[tuple[int, bytes]] = []
    asked: list[int] = []
    status, text = ctypes.create_string_buffer(8), ctypes.create_string_buffer(version)

    def create_status(code: int, message: bytes) -> int:
        told.append((code, message))
        return ctypes.addressof(status)

    table = (CREATE_STATUS * 1)(CREATE_STATUS(create_status))

    def get_api(wanted: int) -> int:
        asked.append(wanted)
        return ctypes.addressof(table)

    base = _ApiBase(GET_API(get_api), GET_VERSION(lambda: ctypes.addressof(text)))
    register = ctypes.CDLL(str(library_path)).RegisterCustomOps
    register.restype, register.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_void_p]
    assert register(None, ctypes.addressof(base)) == ctypes.addressof(status)
    assert told == [(1, b"rs4d's operators need ONNX Runtime 1.17 or newer; this is " + version)]
    assert asked == [1], "only version 1 of the interface may be asked for"
