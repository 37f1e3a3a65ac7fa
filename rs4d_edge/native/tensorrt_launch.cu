#include "tensorrt_launch.hpp"

#include <cuda_runtime_api.h>

#include "cuda_kernels.cu"

namespace rs4d::tensorrt {
namespace {

static_assert(kScanThreads == rs4d_cuda::kScanThreads && kScanChannels == rs4d_cuda::kScanChannels);
static_assert(kTileTokens == rs4d_cuda::kScanTokens && kTokenThreads == rs4d_cuda::kTokenThreads);
static_assert(kOverlapThreads == rs4d_cuda::kOverlapThreads && kSettleThreads == rs4d_cuda::kSettleThreads);
static_assert(kWordBits == rs4d_cuda::kWordBits && kMostBoxes == rs4d_cuda::kMostBoxes);
static_assert(kRoiThreads == rs4d_cuda::kRoiThreads);
static_assert(kTokenRun == rs4d_cuda::kTokenRun && kMostTaps == rs4d_cuda::kMostTaps);

struct Kernels {
  const void *conv, *gate, *roi_align;
  const void *states[2], *scan[2];  // for kStateSizes
};

template <class Function>
const void* address(Function* kernel) {
  return reinterpret_cast<const void*>(kernel);
}

#define RS4D_OF_TYPE(NAME)                                                     \
  Kernels {                                                                    \
    address(rs4d_conv_##NAME), address(rs4d_gate_##NAME),                      \
        address(rs4d_roi_align_##NAME),                                        \
        {address(rs4d_states_##NAME##_n8), address(rs4d_states_##NAME##_n16)}, \
        {address(rs4d_scan_##NAME##_n8), address(rs4d_scan_##NAME##_n16)}      \
  }

Kernels kernels_of(Element element) {
  if (element == Element::kHalf) return RS4D_OF_TYPE(f16);
  return element == Element::kFloat ? RS4D_OF_TYPE(f32) : RS4D_OF_TYPE(bf16);
}

#undef RS4D_OF_TYPE

dim3 grid_of(int64_t x, int64_t y, int64_t z) {
  return dim3(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z));
}

dim3 token_grid(const MixerShape& shape) {
  return grid_of(divide_up(shape.channels, kTokenThreads), divide_up(shape.length, kTokenRun), shape.batch);
}

const char* put(const void* kernel, dim3 grid, int64_t threads, void** arguments, void* stream) {
  const cudaError_t error =
      cudaLaunchKernel(kernel, grid, grid_of(threads, 1, 1), arguments, 0, static_cast<cudaStream_t>(stream));
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

constexpr char kTooLarge[] = "the tensors do not fit a grid: at most 65535 sequences of 1048560 tokens";

}  // namespace

const char* launch_convolution(Element element, const MixerShape& shape, int64_t taps, const void* uz,
                               const float* weight, const float* bias, void* v, void* stream) {
  if (taps < 1 || taps > kMostTaps) return "the convolution is compiled for 1 to 4 taps";
  if (!fits_token_grid(shape)) return kTooLarge;
  int length = static_cast<int>(shape.length), channels = static_cast<int>(shape.channels);
  int width = static_cast<int>(taps);
  void* arguments[] = {&uz, &weight, &bias, &v, &length, &channels, &width};
  return put(kernels_of(element).conv, token_grid(shape), kTokenThreads, arguments, stream);
}

const char* launch_scan(Element element, const MixerShape& shape, const ScanArrays& arrays, void* stream) {
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  ScanPlan plan;
  if (!plan_scan(shape, 2, multiprocessors, plan)) {
    return "the scan is compiled for 1 to 16 states and at most 32767 sequences in each direction";
  }
  if (arrays.narrow_row < 2 * shape.states) return "narrow has no room for b and c";
  if (arrays.narrow_row > kLargestIndex) return "narrow is too wide";
  ScanArrays given = arrays;
  if (plan.carry_floats == 0) given.carry = nullptr;
  if (plan.carry_floats > 0 && !given.carry) return "the engine gave the scan no workspace";
  int batch = static_cast<int>(shape.batch), length = static_cast<int>(shape.length);
  int channels = static_cast<int>(shape.channels), states = static_cast<int>(shape.states);
  int row = static_cast<int>(given.narrow_row), segment_tokens = static_cast<int>(plan.segment_tokens), reverse = 0;
  void* arguments[] = {&given.u,       &given.delta, &given.a,     &given.b, &given.c, &given.d,
                       &given.dt_bias, &given.y,     &given.carry, &batch,   &length,  &channels,
                       &states,        &row,         &segment_tokens, &reverse};
  const Kernels kernels = kernels_of(element);
  const int size = plan.padded_states == kStateSizes[0] ? 0 : 1;
  const int64_t groups = divide_up(shape.channels, kScanChannels), sequences = 2 * shape.batch;
  if (plan.segments > 1) {
    const dim3 grid = grid_of(groups, plan.segments - 1, sequences);
    if (const char* failed = put(kernels.states[size], grid, kScanThreads, arguments, stream)) return failed;
  }
  return put(kernels.scan[size], grid_of(groups, plan.segments, sequences), kScanThreads, arguments, stream);
}

const char* launch_gate(Element element, const MixerShape& shape, const void* y, const void* uz, void* out,
                        void* stream) {
  if (!fits_token_grid(shape)) return kTooLarge;
  int length = static_cast<int>(shape.length), channels = static_cast<int>(shape.channels);
  void* arguments[] = {&y, &uz, &out, &length, &channels};
  return put(kernels_of(element).gate, token_grid(shape), kTokenThreads, arguments, stream);
}

const char* launch_nms(int64_t groups, int64_t boxes, const NmsArrays& arrays, void* stream) {
  if (!fits_nms(groups, boxes)) return "NMS is compiled for 1 to 4096 boxes in at most 65535 groups";
  if (!arrays.overlaps) return "the engine gave NMS no workspace";
  NmsArrays given = arrays;
  int count = static_cast<int>(boxes);
  void* compared[] = {&given.boxes, &given.scores, &given.iou_threshold, &given.score_threshold, &given.overlaps,
                      &count};
  const dim3 grid = grid_of(divide_up(boxes, kOverlapThreads), divide_up(boxes, kWordBits), groups);
  const void* kernel = address(rs4d_nms_overlaps);
  if (const char* failed = put(kernel, grid, kOverlapThreads, compared, stream)) return failed;
  void* settled[] = {&given.scores, &given.most, &given.score_threshold, &given.overlaps, &given.keep, &count};
  return put(address(rs4d_nms_settle), grid_of(groups, 1, 1), kSettleThreads, settled, stream);
}

const char* launch_roi_align(Element element, const RoiShape& shape, const void* feature, const float* rois,
                             const float* scale, void* pooled, void* stream) {
  if (!fits_roi_align(shape)) return "RoIAlign takes at most 65535 RoIs, as many for each image";
  int per_image = static_cast<int>(shape.rois / shape.images), channels = static_cast<int>(shape.channels);
  int height = static_cast<int>(shape.height), width = static_cast<int>(shape.width);
  int bins = static_cast<int>(shape.bins), samples = static_cast<int>(shape.samples);
  void* arguments[] = {&feature, &rois, &scale, &pooled, &per_image, &channels, &height, &width, &bins, &samples};
  const dim3 grid = grid_of(divide_up(shape.channels * shape.bins * shape.bins, kRoiThreads), shape.rois, 1);
  return put(kernels_of(element).roi_align, grid, kRoiThreads, arguments, stream);
}

}  // namespace rs4d::tensorrt
