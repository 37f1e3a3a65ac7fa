// The operators that TensorRT lacks, three of a mixer's core, and NMS and RoIAlign: their tensors, what each launches.
//
//   v = MixerConvolution(uz, weight, bias)       SiLU of the convolution of u, in both directions
//   y = MixerScan(v, dt, narrow, dt_bias, a, d)  step sizes softplus(dt + dt_bias), and the scan, in both directions;
//                                                narrow holds R columns for dt's product, then b and c
//   out = MixerGate(y, uz)                       (y_forward + y_reverse) / 2 * SiLU(z)
//   keep = NmsKeep(boxes, scores, most, iou_threshold, score_threshold)      greedy NMS among N boxes of each group
//   pooled = RoiAlignAdaptive(feature, rois, scale, bins, steps)             with ceil(bin side) samples along an axis
//
// B batch, L tokens, E channels, N states, K taps. "2B": B of the forward direction, then B of the reverse one, each in
// the frame's own order of tokens. Weights (the inputs in `fp32_inputs`) are fp32, the rest is of one type.
// G groups, R RoIs image after image, S bins a side, K samples of a bin at most; bins and steps tell S and K by their
// sizes alone.
#ifndef RS4D_NATIVE_TENSORRT_OPERATORS_HPP
#define RS4D_NATIVE_TENSORRT_OPERATORS_HPP

#include "tensorrt_operator.hpp"

namespace rs4d::tensorrt {

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

inline const char* run_nms(const Call& call) {
  const NmsArrays arrays{call.weights(0),
                         call.weights(1),
                         static_cast<const int32_t*>(call.inputs[2]),
                         call.weights(3),
                         call.weights(4),
                         static_cast<int32_t*>(call.output),
                         static_cast<uint32_t*>(call.workspace)};
  return launch_nms(call.sizes[kGroups], call.sizes[kBoxes], arrays, call.stream);
}

inline const char* run_roi_align(const Call& call) {
  const Sizes& sizes = call.sizes;
  const RoiShape shape{sizes[kBatch], sizes[kChannels], sizes[kHeight], sizes[kWidth],
                       sizes[kRois],  sizes[kBins],     sizes[kSteps]};
  return launch_roi_align(call.element, shape, call.inputs[0], call.weights(1), call.weights(2), call.output,
                          call.stream);
}

inline int64_t no_workspace(const Sizes&) { return 0; }

inline int64_t scan_workspace(const Sizes& sizes) {
  const MixerShape shape{sizes[kBatch], sizes[kLength], sizes[kChannels], sizes[kStates]};
  return static_cast<int64_t>(sizeof(float)) * carry_floats_at_most(shape, 2);
}

inline int64_t nms_workspace(const Sizes& sizes) {
  if (!fits_nms(sizes[kGroups], sizes[kBoxes])) return 0;
  return static_cast<int64_t>(sizeof(uint32_t)) * overlap_words(sizes[kGroups], sizes[kBoxes]);
}

constexpr Tensor kSingle{1, {{kOne, 1}}};
constexpr Tensor kBoth{3, {{kBatch, 2}, {kLength, 1}, {kChannels, 1}}};
constexpr Tensor kInput{3, {{kBatch, 1}, {kLength, 1}, {kChannels, 2}}};
constexpr Tensor kChannelWeights{1, {{kChannels, 1}}};

constexpr Operator kOperators[] = {
    {"MixerConvolution",
     "uz (B, L, 2E), weight (E, K), bias (E) to v (2B, L, E)",
     3,
     0b110,
     0,
     false,
     {kInput, {2, {{kChannels, 1}, {kTaps, 1}}}, kChannelWeights, kBoth},
     no_workspace,
     run_convolution},
    {"MixerScan",
     "v, dt (2B, L, E), narrow (2B, L, R + 2N), dt_bias (E), a (E, N), d (E) to y (2B, L, E)",
     6,
     0b111000,
     0,
     false,
     {kBoth,
      kBoth,
      {3, {{kBatch, 2}, {kLength, 1}, {kNarrow, 1}}},
      kChannelWeights,
      {2, {{kChannels, 1}, {kStates, 1}}},
      kChannelWeights,
      kBoth},
     scan_workspace,
     run_scan},
    {"MixerGate",
     "y (2B, L, E), uz (B, L, 2E) to out (B, L, E)",
     2,
     0,
     0,
     false,
     {kBoth, kInput, {3, {{kBatch, 1}, {kLength, 1}, {kChannels, 1}}}},
     no_workspace,
     run_gate},
    {"NmsKeep",
     "boxes (G, N, 4), scores (G, 1, N), most (1), iou_threshold (1), score_threshold (1) to keep (G, N)",
     5,
     0b11011,
     0b100,
     true,
     {{3, {{kGroups, 1}, {kBoxes, 1}, {kOne, 4}}},
      {3, {{kGroups, 1}, {kOne, 1}, {kBoxes, 1}}},
      kSingle,
      kSingle,
      kSingle,
      {2, {{kGroups, 1}, {kBoxes, 1}}}},
     nms_workspace,
     run_nms},
    {"RoiAlignAdaptive",
     "feature (B, C, H, W), rois (R, 4), scale (1), bins (S), steps (K) to pooled (R, C, S, S)",
     5,
     0b11110,
     0,
     false,
     {{4, {{kBatch, 1}, {kChannels, 1}, {kHeight, 1}, {kWidth, 1}}},
      {2, {{kRois, 1}, {kOne, 4}}},
      kSingle,
      {1, {{kBins, 1}}},
      {1, {{kSteps, 1}}},
      {4, {{kRois, 1}, {kChannels, 1}, {kBins, 1}, {kBins, 1}}}},
     no_workspace,
     run_roi_align},
};

}  // namespace rs4d::tensorrt

#endif
