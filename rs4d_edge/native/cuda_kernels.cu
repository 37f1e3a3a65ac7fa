// The kernels by name, for cuModuleGetFunction: a TensorRT plugin, NVRTC and torch all launch these. Every argument is
// a pointer to device memory or an int, in the order written; no dynamic shared memory. cuda_launch.py launches them.
//
//   rs4d_scan_<type>_n<N>     grid (ceil(E / 32), segments, sequences), 128 threads. <type> f32, f16 or bf16: of u,
//                             delta, b, c, y. <N> 8 or 16: at least `states`, what is missing counts as zeros.
//   rs4d_states_<type>_n<N>   the same with segments - 1, launched before it where there is more than one segment.
//   rs4d_conv_<type>          grid (ceil(E / 64), ceil(L / 16), B), 64 threads; taps 1 to 4.
//   rs4d_gate_<type>          the same grid.
//
// Scan: u, delta, y (sequences, L, E), dense; y must not overlap the inputs. b, c: sequences * L rows of `states`
// elements, `narrow_row` elements from row to row. a (E, states), d (E) fp32. dt_bias (E) fp32, or null where delta has
// been through softplus. Sequences are `batch` of the first direction, then `batch` of the second, which runs the
// other way; for one direction, `batch` in all. reverse: 1 if the first direction starts at the last token, else 0.
// segment_tokens: a multiple of 32, segments = ceil(L / segment_tokens). carry: sequences * (segments - 1) * E * (N +
// 1) floats, aligned to 16 bytes, whatever they hold; null for one segment. L >= 1.
#include "cuda_mixer.cuh"
#include "cuda_scan.cuh"

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
  }

RS4D_KERNELS(float, f32)
RS4D_KERNELS(rs4d_cuda::Half, f16)
RS4D_KERNELS(rs4d_cuda::BFloat, bf16)
