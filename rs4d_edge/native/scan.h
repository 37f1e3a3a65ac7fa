/* C interface of the native selective scan. Plain C types only: no Python, no inference engine.
 *
 * Arrays are fp32, dense and token-major: u, delta, y (batch, length, channels); b, c (batch, length, states);
 * a (channels, states), negative; d (channels).
 *
 *   h[t] = exp(delta[t] * a) * h[t-1] + delta[t] * b[t] * u[t]        y[t] = <c[t], h[t]> + d * u[t]
 *
 * With reverse != 0 the scan starts at the last token; nothing is flipped in memory. threads <= 0 takes the machine's
 * default. Results do not depend on the thread count. Denormals count as zero inside the calls; the caller's
 * floating-point mode is restored. Every function may be called from several threads at once.
 */
#ifndef RS4D_NATIVE_SCAN_H
#define RS4D_NATIVE_SCAN_H

#include <stdint.h>

#define RS4D_ABI_VERSION 3

#if defined(_WIN32)
#define RS4D_EXPORT __declspec(dllexport)
#else
#define RS4D_EXPORT __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Return codes. */
enum { RS4D_OK = 0, RS4D_BAD_SHAPE = 1, RS4D_TOO_MANY_STATES = 2, RS4D_UNKNOWN_ISA = 3 };

typedef struct rs4d_scan_inputs {
  const float *u, *delta, *a, *b, *c, *d;
  int64_t batch, length, channels, states;
  int32_t reverse, threads;
} rs4d_scan_inputs;

typedef struct rs4d_scan_gradients {
  float *u, *delta, *a, *b, *c, *d; /* same shapes as the inputs; overwritten */
} rs4d_scan_gradients;

RS4D_EXPORT int rs4d_abi_version(void);

/* Name of the instruction set in use: "avx512", "avx2", "neon", "sse2" or "plain". */
RS4D_EXPORT const char* rs4d_isa(void);

/* Forces an instruction set by name ("auto" for the best one, "base" for the one that every machine of this
 * kind has). RS4D_UNKNOWN_ISA if this machine lacks it. */
RS4D_EXPORT int rs4d_select_isa(const char* name);

/* Writes y. Allocates nothing. */
RS4D_EXPORT int rs4d_scan_forward(const rs4d_scan_inputs* inputs, float* y);

/* Two scans of the same sizes in one parallel loop, writing y[0] and y[1]: both directions of a layer, each with its
 * own arrays and its own `reverse`. The first one's `threads` counts. Allocates nothing. */
RS4D_EXPORT int rs4d_scan_bidirectional(const rs4d_scan_inputs pair[2], float* const y[2]);

/* Floats of workspace that rs4d_scan_backward needs for these shapes and this thread count; negative: error code. */
RS4D_EXPORT int64_t rs4d_scan_workspace(const rs4d_scan_inputs* inputs);

/* Gradients of sum(y * grad_y). The states are recomputed from checkpoints kept in the workspace. */
RS4D_EXPORT int rs4d_scan_backward(const rs4d_scan_inputs* inputs, const float* grad_y,
                                   const rs4d_scan_gradients* gradients, float* workspace);

/* The core of a Mamba-1 mixer, all between in_proj and out_proj, in both directions with one set of weights:
 *
 *   v = SiLU(conv(u))   [dt, b, c] = v x_proj^T   delta = softplus(dt dt_proj^T + dt_bias)   s = scan(v, delta, b, c)
 *   y = (s_forward + s_reverse) / 2 * SiLU(z)
 *
 * The convolution is depthwise and sees the token and the taps - 1 before it in the direction of the scan. */
typedef struct rs4d_mixer_inputs {
  const float* uz;                      /* (batch, length, 2 * channels): u, then z, as in_proj gives them */
  const float *conv_weight, *conv_bias; /* (channels, taps), (channels) */
  const float* x_proj;                  /* (rank + 2 * states, channels) */
  const float *dt_proj, *dt_bias;       /* (channels, rank), (channels) */
  const float *a, *d;                   /* (channels, states) negative, (channels) */
  int64_t batch, length, channels, states, rank, taps;
  int32_t threads; /* with more than 2 * batch, the workspace is larger */
} rs4d_mixer_inputs;

/* Floats of workspace that rs4d_mixer_core needs for these sizes and this thread count; negative: error code. */
RS4D_EXPORT int64_t rs4d_mixer_workspace(const rs4d_mixer_inputs* inputs);

/* Writes y (batch, length, channels). Allocates nothing. */
RS4D_EXPORT int rs4d_mixer_core(const rs4d_mixer_inputs* inputs, float* y, float* workspace);

#ifdef __cplusplus
}
#endif
#endif
