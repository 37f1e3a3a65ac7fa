#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "inline.h"
#include "kernels.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")
#endif

namespace rs4d {
namespace {
#include "exponential.h"
#include "simd_avx512.h"
#include "scan_rows.h"
#include "scan_registers.h"
#include "scan_forward.h"
#include "scan_backward.h"
#include "mixer_math.h"
#include "mixer_multiply.h"
#include "mixer_body.h"
}  // namespace
}  // namespace rs4d

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const rs4d::Kernels* rs4d::avx512_kernels() {
  static const Kernels kernels{"avx512", forward, backward, mixer_prepare, mixer_project, mixer_scan};
  const bool supported = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
                         __builtin_cpu_supports("fma");
  return supported ? &kernels : nullptr;
}
#else
const rs4d::Kernels* rs4d::avx512_kernels() { return nullptr; }
#endif
