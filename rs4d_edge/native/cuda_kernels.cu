// The kernels by name, for cuModuleGetFunction: a TensorRT plugin, NVRTC and torch all launch these. Every argument is
// a pointer to device memory or an int, in the order written; no dynamic shared memory. cuda_launch.py launches them.
//
//   rs4d_scan_<type>_n<N>     grid (ceil(E / 32), segments, sequences), 128 threads. <type> f32, f16 or bf16: of u,
//                             delta, b, c, y. <N> 8 or 16: at least `states`, what is missing counts as zeros.
//   rs4d_states_<type>_n<N>   the same with segments - 1, launched before it where there is more than one segment.
//   rs4d_conv_<type>          grid (ceil(E / 64), ceil(L / 16), B), 64 threads; taps 1 to 4.
//   rs4d_gate_<type>          the same grid.
//   rs4d_nms_overlaps         grid (ceil(N / 128), ceil(N / 32), groups), 128 threads, for N boxes in each group.
//   rs4d_nms_settle           grid (groups, 1, 1), 256 threads, launched after it. N 1 to 4096.
//   rs4d_roi_align_<type>     grid (ceil(C S S / 128), RoIs, 1), 128 threads, for C channels and S bins a side.
//
// Scan: u, delta, y (sequences, L, E), dense; y must not overlap the inputs. b, c: sequences * L rows of `states`
// elements, `narrow_row` elements from row to row. a (E, states), d (E) fp32. dt_bias (E) fp32, or null where delta has
// been through softplus. Sequences are `batch` of the first direction, then `batch` of the second, which runs the
// other way; for one direction, `batch` in all. reverse: 1 if the first direction starts at the last token, else 0.
// segment_tokens: a multiple of 32, segments = ceil(L / segment_tokens). carry: sequences * (segments - 1) * E * (N +
// 1) floats, aligned to 16 bytes, whatever they hold; null for one segment. L >= 1.
//
// NMS: boxes (groups, N, 4) xyxy, scores (groups, N), thresholds one fp32 each, most one int32; overlaps groups *
// ceil(N / 32) * N words, whatever they hold; keep (groups, N) int32, 0 or 1. RoIAlign: feature (images, C, H, W), rois
// (RoIs, 4) fp32 xyxy in input pixels, rois_per_image for each image, scale one fp32; pooled (RoIs, C, S, S).
#include "cuda_mixer.cuh"
#include "cuda_roi_align.cuh"
#include "cuda_scan.cuh"
#include "cuda_selection.cuh"

#define RS4D_SCAN_PARAMETERS(T)                                                                                       \
  const T *__restrict__ u, const T *__restrict__ delta, const float *__restrict__ a, const T *__restrict__ b,         \
      const T *__restrict__ c, const float *__restrict__ d, const float *__restrict__ dt_bias, T *__restrict__ y,     \
      float *__restrict__ carry, int batch, int length, int channels, int states, int narrow_row, int segment_tokens, \
      int reverse

#define RS4D_SCAN_INPUTS(T)                                                                                \
  rs4d_cuda::ScanInputs<T> {                                                                               \
    u, delta, a, b, c, d, dt_bias, batch, length, channels, states, narrow_row, segment_tokens, reverse    \
  }

#define RS4D_SCAN_KERNELS(T, NAME, N)                                                               \
  extern "C" __global__ void __launch_bounds__(rs4d_cuda::kScanThreads)                             \
      rs4d_scan_##NAME##_n##N(RS4D_SCAN_PARAMETERS(T)) {                                            \
    __shared__ rs4d_cuda::ScanTile<N> tile;                                                         \
    rs4d_cuda::scan_outputs<T, N>(tile, RS4D_SCAN_INPUTS(T), y, carry);                             \
  }                                                                                                 \
  extern "C" __global__ void __launch_bounds__(rs4d_cuda::kScanThreads)                             \
      rs4d_states_##NAME##_n##N(RS4D_SCAN_PARAMETERS(T)) {                                          \
    __shared__ rs4d_cuda::ScanTile<N> tile;                                                         \
    rs4d_cuda::scan_states<T, N>(tile, RS4D_SCAN_INPUTS(T), y, carry);                              \
  }

#define RS4D_KERNELS(T, NAME)                                                                                       \
  RS4D_SCAN_KERNELS(T, NAME, 8)                                                                                     \
  RS4D_SCAN_KERNELS(T, NAME, 16)                                                                                    \
  extern "C" __global__ void __launch_bounds__(rs4d_cuda::kTokenThreads)                                            \
      rs4d_conv_##NAME(const T *__restrict__ uz, const float *__restrict__ weight, const float *__restrict__ bias,  \
                       T *__restrict__ v, int length, int channels, int taps) {                                     \
    rs4d_cuda::convolve<T>(uz, weight, bias, v, length, channels, taps);                                            \
  }                                                                                                                 \
  extern "C" __global__ void __launch_bounds__(rs4d_cuda::kTokenThreads) rs4d_gate_##NAME(                          \
      const T *__restrict__ y, const T *__restrict__ uz, T *__restrict__ out, int length, int channels) {           \
    rs4d_cuda::gate<T>(y, uz, out, length, channels);                                                               \
  }                                                                                                                 \
  extern "C" __global__ void __launch_bounds__(rs4d_cuda::kRoiThreads) rs4d_roi_align_##NAME(                       \
      const T *__restrict__ feature, const float *__restrict__ rois, const float *__restrict__ scale,               \
      T *__restrict__ pooled, int rois_per_image, int channels, int height, int width, int bins,                    \
      int most_samples) {                                                                                           \
    rs4d_cuda::roi_align<T>(feature, rois, scale, pooled, rois_per_image, channels, height, width, bins,            \
                            most_samples);                                                                          \
  }

RS4D_KERNELS(float, f32)
RS4D_KERNELS(rs4d_cuda::Half, f16)
RS4D_KERNELS(rs4d_cuda::BFloat, bf16)

extern "C" __global__ void __launch_bounds__(rs4d_cuda::kOverlapThreads)
    rs4d_nms_overlaps(const float *__restrict__ boxes, const float *__restrict__ scores,
                      const float *__restrict__ iou_threshold, const float *__restrict__ score_threshold,
                      unsigned *__restrict__ overlaps, int count) {
  __shared__ rs4d_cuda::OverlapTile tile;
  rs4d_cuda::find_overlaps(tile, boxes, scores, iou_threshold, score_threshold, overlaps, count);
}

extern "C" __global__ void __launch_bounds__(rs4d_cuda::kSettleThreads)
    rs4d_nms_settle(const float *__restrict__ scores, const int *__restrict__ most,
                    const float *__restrict__ score_threshold, const unsigned *__restrict__ overlaps,
                    int *__restrict__ keep, int count) {
  __shared__ rs4d_cuda::SettleBits bits;
  rs4d_cuda::settle(bits, scores, most, score_threshold, overlaps, keep, count);
}
