#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "inline.h"
#include "kernels.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define RS4D_VECTOR_BYTES 32

namespace rs4d {
namespace {
#include "exponential.h"
#include "simd_vector.h"
#include "scan_body.h"
#include "mixer_body.h"
}  // namespace
}  // namespace rs4d

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const rs4d::Kernels* rs4d::avx2_kernels() {
  static const Kernels kernels{"avx2", forward, backward, mixer_prepare, mixer};
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &kernels : nullptr;
}
#else
const rs4d::Kernels* rs4d::avx2_kernels() { return nullptr; }
#endif
