// Puts the kernels of cuda_kernels.cu onto a stream. Nothing here is TensorRT's, and of CUDA only the stream, as void*.
#ifndef RS4D_NATIVE_TENSORRT_LAUNCH_HPP
#define RS4D_NATIVE_TENSORRT_LAUNCH_HPP

#include "tensorrt_plan.hpp"

namespace rs4d::tensorrt {

enum class Element { kFloat, kHalf, kBFloat };

constexpr int64_t bytes_of(Element element) { return element == Element::kFloat ? 4 : 2; }

// Device addresses; shapes and types as in cuda_kernels.cu. b and c lie `narrow_row` elements from token to token.
struct ScanArrays {
  const void *u, *delta;
  const float* a;
  const void *b, *c;
  const float *d, *dt_bias;
  void* y;
  float* carry;
  int64_t narrow_row;
};

// Device addresses; shapes and types as in cuda_kernels.cu. `overlaps`: `overlap_words` of workspace.
struct NmsArrays {
  const float *boxes, *scores;
  const int32_t* most;
  const float *iou_threshold, *score_threshold;
  int32_t* keep;
  uint32_t* overlaps;
};

// Each returns null once the kernels are on the stream, or else what is wrong, in static memory.

// uz (B, L, 2E), weight (E, taps), bias (E) to v (2B, L, E).
const char* launch_convolution(Element element, const MixerShape& shape, int64_t taps, const void* uz,
                               const float* weight, const float* bias, void* v, void* stream);

// Both directions, planned for the current device. `carry` may be null where the plan needs none.
const char* launch_scan(Element element, const MixerShape& shape, const ScanArrays& arrays, void* stream);

// y (2B, L, E), uz (B, L, 2E) to out (B, L, E).
const char* launch_gate(Element element, const MixerShape& shape, const void* y, const void* uz, void* out,
                        void* stream);

// Greedy NMS among the boxes of each group.
const char* launch_nms(int64_t groups, int64_t boxes, const NmsArrays& arrays, void* stream);

// feature (B, C, H, W), rois (R, 4) image after image, scale (1) to pooled (R, C, S, S).
const char* launch_roi_align(Element element, const RoiShape& shape, const void* feature, const float* rois,
                             const float* scale, void* pooled, void* stream);

}  // namespace rs4d::tensorrt

#endif
