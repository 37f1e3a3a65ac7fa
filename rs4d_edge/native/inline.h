#pragma once

// Without it a small function may be compiled for the base instruction set and called from a loop of another.
#define RS4D_INLINE inline __attribute__((always_inline))
#define RS4D_INLINE_LAMBDA __attribute__((always_inline))
