// What stands around the scan in a mixer's core, on CUDA. The two projections stay with the caller's matrix library.
//
//   rs4d_conv    v = SiLU(conv(u)), both directions: one read of u feeds both, and nothing is written in between
//   (caller)     x_proj of v, both directions as 2 * B * L rows, to (dt, b, c)
//   (caller)     dt_proj of dt without its bias
//   rs4d_scan    softplus(dt + bias) as delta is loaded: the step sizes never exist in memory, and in fp16 it is the
//                projection that is rounded, not the step size; b and c are read in place between dt's columns
//   rs4d_gate    (y_forward + y_reverse) / 2 * SiLU(z)
//
// The convolution is not fused with the scan, because x_proj needs all channels of v before a channel's scan can start.
// The gate is not, because the two directions meet at a token at different times, in different blocks.
#ifndef RS4D_NATIVE_CUDA_MIXER_CUH
#define RS4D_NATIVE_CUDA_MIXER_CUH

#include "cuda_device.cuh"

namespace rs4d_cuda {

constexpr int kTokenThreads = 64;  // a block's channels
constexpr int kTokenRun = 16;      // tokens of one thread
constexpr int kMostTaps = 4;

// Channel and first token of this thread. Blocks: x groups of channels, y runs of tokens, z sequences.
struct TokenRun {
  int channel, begin;

  RS4D_DEVICE TokenRun()
      : channel(static_cast<int>(blockIdx.x * kTokenThreads + threadIdx.x)),
        begin(static_cast<int>(blockIdx.y) * kTokenRun) {}
};

// uz (batch, length, 2 * channels) to v (2, batch, length, channels): a token and the taps - 1 before it, or after it.
template <class T>
RS4D_DEVICE void convolve(const T* __restrict__ uz, const float* __restrict__ weight, const float* __restrict__ bias,
                          T* __restrict__ v, int length, int channels, int taps) {
  const TokenRun run;
  if (run.channel >= channels) return;
  constexpr int kReach = kMostTaps - 1;
  float w[kMostTaps];  // fewer taps: zeros before them
#pragma unroll
  for (int k = 0; k < kMostTaps; ++k) {
    const int tap = k - (kMostTaps - taps);
    w[k] = tap >= 0 ? weight[run.channel * taps + tap] : 0.0f;
  }
  const long long first = static_cast<long long>(blockIdx.z) * length;
  T u[kTokenRun + 2 * kReach];
#pragma unroll
  for (int i = 0; i < kTokenRun + 2 * kReach; ++i) {
    const int token = run.begin - kReach + i;
    u[i] = T();
    if (token >= 0 && token < length) u[i] = uz[(first + token) * 2 * channels + run.channel];
  }
  const float start = bias[run.channel];
  const long long direction = static_cast<long long>(gridDim.z) * length * channels;
#pragma unroll
  for (int i = 0; i < kTokenRun; ++i) {
    if (run.begin + i >= length) return;
    float ahead = start, back = start;
#pragma unroll
    for (int k = 0; k < kMostTaps; ++k) {
      ahead = fmaf(w[k], to_float(u[i + k]), ahead);
      back = fmaf(w[k], to_float(u[i + 2 * kReach - k]), back);
    }
    const long long at = (first + run.begin + i) * channels + run.channel;
    put(v[at], silu(ahead));
    put(v[direction + at], silu(back));
  }
}

// y (2, batch, length, channels) and the second half of uz to out (batch, length, channels).
template <class T>
RS4D_DEVICE void gate(const T* __restrict__ y, const T* __restrict__ uz, T* __restrict__ out, int length,
                      int channels) {
  const TokenRun run;
  if (run.channel >= channels) return;
  const long long first = static_cast<long long>(blockIdx.z) * length;
  const long long direction = static_cast<long long>(gridDim.z) * length * channels;
#pragma unroll
  for (int i = 0; i < kTokenRun; ++i) {
    if (run.begin + i >= length) return;
    const long long token = first + run.begin + i, at = token * channels + run.channel;
    const float mean = 0.5f * (to_float(y[at]) + to_float(y[direction + at]));
    put(out[at], mean * silu(to_float(uz[token * 2 * channels + channels + run.channel])));
  }
}

}  // namespace rs4d_cuda

#endif
