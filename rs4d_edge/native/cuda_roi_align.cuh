// RoIAlign on CUDA as `rs4d_edge.reference.roi_align` defines it: aligned coordinates, ceil(bin side) samples along
// each axis, their mean. A thread makes one bin of one channel; a RoI without area costs it one write.
#ifndef RS4D_NATIVE_CUDA_ROI_ALIGN_CUH
#define RS4D_NATIVE_CUDA_ROI_ALIGN_CUH

#include "cuda_device.cuh"

namespace rs4d_cuda {

constexpr int kRoiThreads = 128;

// Two neighbouring cells of an axis, the second one's weight, and whether the sample counts.
struct AxisSample {
  int first, second;
  float fraction;
  bool counted;
};

RS4D_DEVICE float between(float first, float second, float fraction) { return fmaf(fraction, second - first, first); }

// The samples of one bin along one axis, in cells. How many there are is rounded as in the node's body, because it
// changes from one number to the next.
struct BinAxis {
  float begin, step, grid;
  int samples;

  RS4D_DEVICE BinAxis(float low, float high, float scale, int bins, int bin, int most_samples) {
    const float start = __fsub_rn(__fmul_rn(low, scale), 0.5f), end = __fsub_rn(__fmul_rn(high, scale), 0.5f);
    const float side = __fdiv_rn(__fsub_rn(end, start), static_cast<float>(bins));
    begin = fmaf(static_cast<float>(bin), side, start);
    grid = fmaxf(ceilf(side), 0.0f);
    step = side / fmaxf(grid, 1.0f);
    samples = static_cast<int>(fminf(grid, static_cast<float>(most_samples)));
  }

  // Samples further than one cell outside of the map count as 0; the others outside are moved to its edge.
  RS4D_DEVICE AxisSample sample(int i, int extent) const {
    const float position = fmaf(static_cast<float>(i) + 0.5f, step, begin);
    const float last = static_cast<float>(extent - 1);
    const float clamped = fminf(fmaxf(position, 0.0f), last);
    const int first = static_cast<int>(clamped);
    return {first, first + 1 < extent ? first + 1 : first, clamped - static_cast<float>(first),
            position >= -1.0f && position <= static_cast<float>(extent)};
  }
};

// feature (images, channels, height, width), rois (images * rois_per_image, 4) xyxy in input pixels, image after image,
// to pooled (rois, channels, bins, bins). Grid: x elements of one RoI, y RoIs.
template <class T>
RS4D_DEVICE void roi_align(const T* __restrict__ feature, const float* __restrict__ rois,
                           const float* __restrict__ scale, T* __restrict__ pooled, int rois_per_image, int channels,
                           int height, int width, int bins, int most_samples) {
  const int element = static_cast<int>(blockIdx.x) * kRoiThreads + static_cast<int>(threadIdx.x);
  const int area = bins * bins, roi = static_cast<int>(blockIdx.y);
  if (element >= channels * area) return;
  const float* at = rois + 4LL * roi;
  const BinAxis columns(at[0], at[2], *scale, bins, element % bins, most_samples);
  const BinAxis rows(at[1], at[3], *scale, bins, element / bins % bins, most_samples);
  const long long plane = static_cast<long long>(roi / rois_per_image) * channels + element / area;
  const T* map = feature + plane * height * width;
  float sum = 0.0f;
  for (int i = 0; columns.samples > 0 && i < rows.samples; ++i) {
    const AxisSample y = rows.sample(i, height);
    if (!y.counted) continue;
    const T* upper = map + static_cast<long long>(y.first) * width;
    const T* lower = map + static_cast<long long>(y.second) * width;
    for (int j = 0; j < columns.samples; ++j) {
      const AxisSample x = columns.sample(j, width);
      if (!x.counted) continue;
      const float left = between(to_float(upper[x.first]), to_float(lower[x.first]), y.fraction);
      const float right = between(to_float(upper[x.second]), to_float(lower[x.second]), y.fraction);
      sum += between(left, right, x.fraction);
    }
  }
  put(pooled[static_cast<long long>(roi) * channels * area + element], sum / fmaxf(rows.grid * columns.grid, 1.0f));
}

}  // namespace rs4d_cuda

#endif
