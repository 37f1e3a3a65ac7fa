// The three operators of a mixer's core that TensorRT lacks: their tensors, and what each one launches.
//
//   v = MixerConvolution(uz, weight, bias)       SiLU of the convolution of u, in both directions
//   y = MixerScan(v, dt, narrow, dt_bias, a, d)  step sizes softplus(dt + dt_bias), and the scan, in both directions;
//                                                narrow holds R columns for dt's product, then b and c
//   out = MixerGate(y, uz)                       (y_forward + y_reverse) / 2 * SiLU(z)
//
// B batch, L tokens, E channels, N states, K taps. "2B": B of the forward direction, then B of the reverse one, each in
// the frame's own order of tokens. Weights (the inputs in `fp32_inputs`) are fp32, the rest is of one type.
#ifndef RS4D_NATIVE_TENSORRT_OPERATORS_HPP
#define RS4D_NATIVE_TENSORRT_OPERATORS_HPP

#include <NvInferRuntime.h>

#include <array>
#include <cstddef>

#include "tensorrt_launch.hpp"

namespace rs4d::tensorrt {

constexpr int32_t kMostInputs = 6, kRank = 3;
constexpr int64_t kUnknown = -1;  // a size that is not known yet, as in TensorRT's own Dims

enum Symbol { kBatch, kLength, kChannels, kStates, kTaps, kNarrow, kSymbols };
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
  Tensor tensors[kMostInputs + 1];  // of the inputs, then of the output
  bool scans;                       // needs a workspace
  const char* (*launch)(const Call& call);

  const Tensor& output() const { return tensors[inputs]; }
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
  return sizes;
}

inline const char* run_convolution(const Call& call) {
  return launch_convolution(call.element, call.shape(), call.sizes[kTaps], call.inputs[0], call.weights(1),
                            call.weights(2), call.output, call.stream);
}

inline const char* run_scan(const Call& call) {
  const MixerShape shape = call.shape();
  const int64_t row = call.sizes[kNarrow], bytes = bytes_of(call.element);
  if (row < 2 * shape.states) return "narrow has no room for b and c";
  const char* c = static_cast<const char*>(call.inputs[2]) + (row - shape.states) * bytes;
  const char* b = c - shape.states * bytes;
  const ScanArrays arrays{call.inputs[0], call.inputs[1],  call.weights(4), b,
                          c,              call.weights(5), call.weights(3), call.output,
                          static_cast<float*>(call.workspace), row};
  return launch_scan(call.element, shape, arrays, call.stream);
}

inline const char* run_gate(const Call& call) {
  return launch_gate(call.element, call.shape(), call.inputs[0], call.inputs[1], call.output, call.stream);
}

constexpr Tensor kBoth{3, {{kBatch, 2}, {kLength, 1}, {kChannels, 1}}};
constexpr Tensor kInput{3, {{kBatch, 1}, {kLength, 1}, {kChannels, 2}}};
constexpr Tensor kChannelWeights{1, {{kChannels, 1}}};

constexpr Operator kOperators[] = {
    {"MixerConvolution",
     "uz (B, L, 2E), weight (E, K), bias (E) to v (2B, L, E)",
     3,
     0b110,
     {kInput, {2, {{kChannels, 1}, {kTaps, 1}}}, kChannelWeights, kBoth},
     false,
     run_convolution},
    {"MixerScan",
     "v, dt (2B, L, E), narrow (2B, L, R + 2N), dt_bias (E), a (E, N), d (E) to y (2B, L, E)",
     6,
     0b111000,
     {kBoth,
      kBoth,
      {3, {{kBatch, 2}, {kLength, 1}, {kNarrow, 1}}},
      kChannelWeights,
      {2, {{kChannels, 1}, {kStates, 1}}},
      kChannelWeights,
      kBoth},
     true,
     run_scan},
    {"MixerGate",
     "y (2B, L, E), uz (B, L, 2E) to out (B, L, E)",
     2,
     0,
     {kBoth, kInput, {3, {{kBatch, 1}, {kLength, 1}, {kChannels, 1}}}},
     false,
     run_gate},
};

}  // namespace rs4d::tensorrt

#endif
