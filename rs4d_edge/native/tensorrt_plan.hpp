// How the kernels are spread over a GPU: what cuda_launch.py plans, in C++. Needs neither CUDA nor TensorRT.
#ifndef RS4D_NATIVE_TENSORRT_PLAN_HPP
#define RS4D_NATIVE_TENSORRT_PLAN_HPP

#include <algorithm>
#include <cstdint>

namespace rs4d::tensorrt {

constexpr int64_t kScanThreads = 128, kScanChannels = 32, kTileTokens = 32;
constexpr int64_t kTokenThreads = 64, kTokenRun = 16, kMostTaps = 4;
constexpr int64_t kStateSizes[] = {8, 16};  // what the scan is compiled for
constexpr int64_t kOverlapThreads = 128, kSettleThreads = 256, kWordBits = 32, kMostBoxes = 4096;
constexpr int64_t kRoiThreads = 128;
constexpr int64_t kLargestIndex = INT32_MAX, kLargestGrid = 65535;

// A segment costs a second pass over the exponentials, so there is one only where more than half of the GPU would idle.
constexpr int64_t kBlocksPerMultiprocessor = 2, kShortestSegment = 4 * kTileTokens;
constexpr int64_t kManyProcessors = 1 << 12;  // more than a GPU has

// Of one direction. `states` counts for the scan alone.
struct MixerShape {
  int64_t batch, length, channels, states;
};

// A map and its RoIs, over all images: bins of a RoI along an axis, and samples of a bin at most.
struct RoiShape {
  int64_t images, channels, height, width, rois, bins, samples;
};

// `carry_floats` of fp32 workspace, 0 for one segment.
struct ScanPlan {
  int64_t segment_tokens, segments, padded_states, carry_floats;
};

inline int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

inline bool positive(const MixerShape& shape) {
  return shape.batch >= 1 && shape.length >= 1 && shape.channels >= 1 && shape.channels <= kLargestIndex / kMostTaps;
}

inline int64_t pad_states(int64_t states) { return states <= kStateSizes[0] ? kStateSizes[0] : kStateSizes[1]; }

// Whether the scan of both directions, or of one, fits the kernels; `plan` is as `plan_scan` of cuda_launch.py has it.
inline bool plan_scan(const MixerShape& shape, int64_t directions, int64_t multiprocessors, ScanPlan& plan) {
  if (!positive(shape) || shape.states < 1 || shape.states > kStateSizes[1] || multiprocessors < 1) return false;
  if (directions < 1 || directions > 2 || shape.length > kLargestIndex / 2) return false;
  if (shape.batch > kLargestGrid / directions) return false;
  const int64_t sequences = shape.batch * directions;
  const int64_t blocks = divide_up(shape.channels, kScanChannels) * sequences;
  const int64_t wanted = multiprocessors * kBlocksPerMultiprocessor;
  const int64_t longest = std::max<int64_t>(1, shape.length / kShortestSegment);
  const int64_t tiles = divide_up(shape.length, kTileTokens);
  const int64_t segments = 2 * blocks >= wanted ? 1 : std::min(divide_up(wanted, blocks), longest);
  plan.segment_tokens = divide_up(tiles, std::min(segments, tiles)) * kTileTokens;
  plan.segments = divide_up(shape.length, plan.segment_tokens);
  plan.padded_states = pad_states(shape.states);
  plan.carry_floats = sequences * (plan.segments - 1) * shape.channels * (plan.padded_states + 1);
  return true;
}

// Enough for the scan of `shape`, and of any smaller one, on every GPU: an engine is built where neither the GPU's size
// nor, with dynamic shapes, the sequences' is known. Not the plan of the largest shape, because a smaller batch leaves
// more of the GPU idle and so has more segments.
inline int64_t carry_floats_at_most(const MixerShape& shape, int64_t directions) {
  ScanPlan plan;
  if (!plan_scan(shape, directions, kManyProcessors, plan)) return 0;
  const int64_t carried = std::max<int64_t>(1, shape.length / kShortestSegment) - 1;  // segments, but for the last
  const int64_t row = shape.batch * directions * shape.channels;
  const int64_t most = kManyProcessors * kBlocksPerMultiprocessor * kScanChannels;
  const int64_t rows = carried <= most / row ? carried * row : most;  // the smaller one, without overflow
  return rows * (plan.padded_states + 1);
}

// Whether the convolution and the gate fit a grid.
inline bool fits_token_grid(const MixerShape& shape) {
  return positive(shape) && shape.batch <= kLargestGrid && shape.length <= kLargestGrid * kTokenRun;
}

// Whether NMS fits the kernels and their grid; 32-bit words of workspace for it.
inline bool fits_nms(int64_t groups, int64_t boxes) {
  return groups >= 1 && groups <= kLargestGrid && boxes >= 1 && boxes <= kMostBoxes;
}

inline int64_t overlap_words(int64_t groups, int64_t boxes) { return groups * boxes * divide_up(boxes, kWordBits); }

// Whether RoIAlign fits a grid. The factors are bounded before they are multiplied.
inline bool fits_roi_align(const RoiShape& shape) {
  const int64_t most = kLargestIndex - kRoiThreads;
  for (const int64_t size : {shape.images, shape.channels, shape.height, shape.width, shape.bins, shape.samples}) {
    if (size < 1 || size > most) return false;
  }
  if (shape.rois < 1 || shape.rois > kLargestGrid || shape.rois % shape.images != 0) return false;
  const bool bins_fit = shape.bins <= most / shape.bins && shape.channels <= most / (shape.bins * shape.bins);
  return bins_fit && shape.height <= most / shape.width;
}

}  // namespace rs4d::tensorrt

#endif
