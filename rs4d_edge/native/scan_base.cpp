// The instruction set that the compiler targets anyway: NEON on aarch64, SSE2 on x86-64, scalar code elsewhere.
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "inline.h"
#include "kernels.h"

#define RS4D_VECTOR_BYTES 16

namespace rs4d {
namespace {
#include "exponential.h"
#include "simd_vector.h"
#include "scan_rows.h"
#include "scan_registers.h"
#include "scan_forward.h"
#include "scan_backward.h"
#include "mixer_math.h"
#include "mixer_multiply.h"
#include "mixer_body.h"
}  // namespace
}  // namespace rs4d

const rs4d::Kernels* rs4d::base_kernels() {
#if defined(__aarch64__) || defined(__ARM_NEON)
  static const Kernels kernels{"neon", forward, backward, mixer_prepare, mixer_project, mixer_scan};
#elif defined(__SSE2__)
  static const Kernels kernels{"sse2", forward, backward, mixer_prepare, mixer_project, mixer_scan};
#else
  static const Kernels kernels{"plain", forward, backward, mixer_prepare, mixer_project, mixer_scan};
#endif
  return &kernels;
}
