// An operator as ONNX Runtime asks for it, and its tensors as our operators see them. All tensors are fp32.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "onnxruntime_abi.h"

namespace rs4d::ort {

// The functions of the runtime that loaded this library.
extern const Api* api;

constexpr size_t kMaxInputs = 8;
constexpr size_t kMaxAxes = 8;

struct Shape {
  std::array<int64_t, kMaxAxes> sizes{};
  size_t axes = 0;

  bool operator==(const Shape& other) const { return axes == other.axes && sizes == other.sizes; }
};

struct Tensor {
  const float* data = nullptr;
  Shape shape;
};

using Tensors = std::array<Tensor, kMaxInputs>;
using Shapes = std::array<Shape, kMaxInputs>;

struct Kernel;

// One of our operators. The output has the first input's shape, its last axis divided by `narrowing`.
struct Operator : CustomOp {
  using Compute = OrtStatus* (*)(const Kernel& kernel, OrtKernelContext* context);

  Operator(const char* operator_name, const std::array<const char*, kMaxInputs>& input_names, int64_t output_narrowing,
           Compute function);
  OrtStatus* failure(const std::string& message) const;
  // Reads all inputs.
  OrtStatus* read(OrtKernelContext* context, Tensors& tensors) const;
  // An error that names the first tensor whose shape is not the wanted one.
  OrtStatus* check(const Tensors& tensors, const Shapes& wanted) const;

  const char* name;
  std::array<const char*, kMaxInputs> inputs;  // names, nullptr behind the last
  size_t input_count;
  int64_t narrowing;
  Compute compute;
};

// A node of a session. Runs of one session may be under way at the same time, so nothing in here changes.
struct Kernel {
  const Operator& op;
  bool reverse;  // the attribute of that name; forwards where the node has none
};

std::string text(const Shape& shape);

// Has the runtime make the output; sets where its data lie.
OrtStatus* make_output(OrtKernelContext* context, const Shape& shape, float** data);

}  // namespace rs4d::ort
