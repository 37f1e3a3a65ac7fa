// What an operator is to the plugins: its tensors' shapes by symbols, their types, and what is launched.
#ifndef RS4D_NATIVE_TENSORRT_OPERATOR_HPP
#define RS4D_NATIVE_TENSORRT_OPERATOR_HPP

#include <NvInferRuntime.h>

#include <array>
#include <cstddef>

#include "tensorrt_launch.hpp"

namespace rs4d::tensorrt {

constexpr int32_t kMostInputs = 6, kRank = 4;
constexpr int64_t kUnknown = -1;  // a size that is not known yet, as in TensorRT's own Dims

// `kOne` is 1: an axis of four times that has the size 4.
enum Symbol {
  kOne, kBatch, kLength, kChannels, kStates, kTaps, kNarrow, kGroups, kBoxes, kHeight, kWidth, kRois, kBins, kSteps,
  kSymbols
};
using Sizes = std::array<int64_t, kSymbols>;

struct Axis {
  Symbol symbol;
  int64_t times;
};

struct Tensor {
  int32_t rank;
  Axis axes[kRank];
};

// One node at run time. `sizes` holds those that the operator's tensors have.
struct Call {
  Element element;
  Sizes sizes;
  void const* const* inputs;
  void* output;
  void* workspace;
  void* stream;

  MixerShape shape() const { return {sizes[kBatch], sizes[kLength], sizes[kChannels], sizes[kStates]}; }
  const float* weights(int32_t input) const { return static_cast<const float*>(inputs[input]); }
};

struct Operator {
  const char *name, *signature;
  int32_t inputs;
  unsigned fp32_inputs;             // bit i: input i
  unsigned int32_inputs;            // the same
  bool int32_output;                // TensorRT's plugins have no bool
  Tensor tensors[kMostInputs + 1];  // of the inputs, then of the output
  int64_t (*workspace_bytes)(const Sizes& sizes);
  const char* (*launch)(const Call& call);

  const Tensor& output() const { return tensors[inputs]; }

  // The type of an input, or of the output, where the first input is of type `first`.
  nvinfer1::DataType type_of(int32_t position, nvinfer1::DataType first) const {
    if (position == inputs) return int32_output ? nvinfer1::DataType::kINT32 : first;
    if (fp32_inputs >> position & 1u) return nvinfer1::DataType::kFLOAT;
    return int32_inputs >> position & 1u ? nvinfer1::DataType::kINT32 : first;
  }
};

// Whether `given` can be the tensor; what its sizes tell goes to `sizes`, or must agree with what is there.
inline bool read_sizes(const Tensor& tensor, const nvinfer1::Dims& given, Sizes& sizes) {
  if (given.nbDims != tensor.rank) return false;
  for (int32_t i = 0; i < tensor.rank; ++i) {
    if (given.d[i] == kUnknown) continue;
    const Axis axis = tensor.axes[i];
    if (given.d[i] < 1 || given.d[i] % axis.times != 0) return false;
    const int64_t size = given.d[i] / axis.times;
    if (sizes[axis.symbol] != kUnknown && sizes[axis.symbol] != size) return false;
    sizes[axis.symbol] = size;
  }
  return true;
}

inline Sizes unknown_sizes() {
  Sizes sizes;
  sizes.fill(kUnknown);
  sizes[kOne] = 1;
  return sizes;
}

}  // namespace rs4d::tensorrt

#endif
