// Stands in for the CUDA device, so that g++ compiles rs4d_edge/native/cuda_kernels.cu as it is and the kernels run on
// the CPU. Blocks run one after another, a block's threads as fibres: each runs until a barrier or a shuffle, and only
// in that order do they see each other. What it cannot show: speed, the compiler's code for a GPU, and the exact bits
// of the GPU's exponential.
#ifndef RS4D_CUDA_EMULATION
#define RS4D_CUDA_EMULATION

#include <cmath>
#include <cstdint>
#include <cstring>

#define __global__
#define __launch_bounds__(threads)
#define __restrict__
#define RS4D_DEVICE inline
// All shared memory lies in one section, which is filled with NaN before each block.
#define __shared__ static __attribute__((section("emulated_shared")))

namespace emulation {

struct Index {
  unsigned x, y, z;
};

extern Index thread, block, grid;

// Errors in the exponential's last place, as ex2.approx.ftz may have them: relative, the same for every argument.
extern float exponential_error;

void barrier();
float exchange(float value, int lane_mask);
unsigned ballot(bool vote);
bool any_of_block(bool vote);

}  // namespace emulation

#define threadIdx emulation::thread
#define blockIdx emulation::block
#define gridDim emulation::grid

inline void __syncthreads() { emulation::barrier(); }

inline float __shfl_xor_sync(unsigned, float value, int lane_mask) { return emulation::exchange(value, lane_mask); }

inline unsigned __ballot_sync(unsigned, int vote) { return emulation::ballot(vote != 0); }

inline int __syncthreads_or(int vote) { return emulation::any_of_block(vote != 0); }

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }

// Nothing is contracted: see the flags in cuda_emulation.py.
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }

inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

using std::fmaf;

inline float fmaxf(float x, float y) { return std::fmax(x, y); }
inline float fminf(float x, float y) { return std::fmin(x, y); }

namespace rs4d_cuda {

// Results below 2^-126 are flushed to zero, as on the device.
inline float exp2_approximate(float x) {
  if (x < -126.0f) return 0.0f;
  return x == 0.0f ? 1.0f : std::exp2(x) * (1.0f + emulation::exponential_error);
}

inline float quotient(float x, float y) { return y > 0x1p126f && !std::isinf(x) ? 0.0f : x / y; }

inline float half_to_float(unsigned short bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const float size = exponent == 31  ? (mantissa ? NAN : INFINITY)
                     : exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                     : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  return bits & 0x8000 ? -size : size;
}

// To nearest even: the rounding of lrintf, at the scale of the result's last place.
inline unsigned short float_to_half(float x) {
  const unsigned short sign = std::signbit(x) ? 0x8000 : 0;
  const float size = std::fabs(x);
  if (std::isnan(x)) return 0x7fff;
  if (size >= 65520.0f) return static_cast<unsigned short>(sign | 0x7c00);
  int exponent = size > 0.0f ? std::ilogb(size) : -14;
  exponent = exponent < -14 ? -14 : exponent;
  // Rounding up to the next power of two carries into the exponent by itself.
  const long mantissa = std::lrint(std::ldexp(size, 10 - exponent));
  return static_cast<unsigned short>(sign + (exponent + 14) * 1024 + mantissa);
}

}  // namespace rs4d_cuda

#endif
