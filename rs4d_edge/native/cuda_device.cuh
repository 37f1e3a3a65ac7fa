// What the CUDA kernels ask of the device: element types, a base-2 exponential, activations. No header is included, so
// that NVRTC compiles it as it stands. tests/native/cuda_emulation.h puts itself in the device's place to run the same
// kernels on a CPU: it defines RS4D_CUDA_EMULATION, the built-in variables and the functions of the first section.
#ifndef RS4D_NATIVE_CUDA_DEVICE_CUH
#define RS4D_NATIVE_CUDA_DEVICE_CUH

namespace rs4d_cuda {

struct Half {
  unsigned short bits;
};

struct BFloat {
  unsigned short bits;
};

#ifndef RS4D_CUDA_EMULATION
#define RS4D_DEVICE __device__ __forceinline__

// The special-function unit: relative error 2^-22.5 over the whole range, exactly 1 for 0, 0 for anything below -126
// (PTX ISA, ex2.approx.ftz). Written as an instruction, so that the compiler's flags do not change it.
RS4D_DEVICE float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Within 2 ulp for divisors below 2^126; 0 beyond.
RS4D_DEVICE float quotient(float x, float y) { return __fdividef(x, y); }

RS4D_DEVICE float half_to_float(unsigned short bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}

RS4D_DEVICE unsigned short float_to_half(float x) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
#endif

constexpr float kLog2E = 1.44269504088896340736f;

RS4D_DEVICE float to_float(float x) { return x; }
RS4D_DEVICE float to_float(Half x) { return half_to_float(x.bits); }
RS4D_DEVICE float to_float(BFloat x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

RS4D_DEVICE void put(float& to, float x) { to = x; }
RS4D_DEVICE void put(Half& to, float x) { to.bits = float_to_half(x); }

// Round to nearest even by integers: the instruction came with sm_80, and this is stored once for each token.
RS4D_DEVICE void put(BFloat& to, float x) {
  const unsigned bits = __float_as_uint(x);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  to.bits = static_cast<unsigned short>(nan ? 0x7fffu : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

RS4D_DEVICE float silu(float x) { return quotient(x, 1.0f + exp2_approximate(x * -kLog2E)); }

// log(1 + e^x) = max(x, 0) + log1p(e), e = exp(-|x|), and log1p(e) = 2 atanh(e / (2 + e)) as a series in the square:
// accurate relative to the result, as in mixer_body.h; __logf is not, where the step size is far below 1.
RS4D_DEVICE float softplus(float x) {
  const float e = exp2_approximate(-fabsf(x) * kLog2E);
  const float s = quotient(e, 2.0f + e), q = s * s;
  float series = fmaf(1.0f / 15.0f, q, 1.0f / 13.0f);
  series = fmaf(series, q, 1.0f / 11.0f);
  series = fmaf(series, q, 1.0f / 9.0f);
  series = fmaf(series, q, 1.0f / 7.0f);
  series = fmaf(series, q, 1.0f / 5.0f);
  series = fmaf(series, q, 1.0f / 3.0f);
  series = fmaf(series, q, 1.0f);
  return fmaf(s + s, series, fmaxf(x, 0.0f));
}

}  // namespace rs4d_cuda

#endif
