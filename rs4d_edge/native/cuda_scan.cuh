// The selective scan on CUDA, forward, with fp32 states; T (float, Half or BFloat) is the type of u, delta, b, c and y.
//
// One block scans 32 channels of one direction of one sequence. Four lanes share a channel, N / 4 states each: E is
// only 256 to 640, and the lanes make four times as many threads of it. Loads and stores are token-major with the
// channels innermost, so a warp's request is one line. A tile of tokens passes through shared memory while the next one
// is on its way in registers: b and c are read by every channel, u and delta by four lanes, and y leaves in full lines.
//
// Where the channels alone cannot fill the GPU, the tokens are cut into segments, which costs a second pass over the
// exponentials: `scan_states` runs every segment but the last from zero and leaves its final states and its sum of
// delta; `scan_outputs` carries these with exp(a * sum delta) to its segment's start and scans from there. This is
// exact for any delta: nothing is divided by a decay, which underflows on real inputs.
#ifndef RS4D_NATIVE_CUDA_SCAN_CUH
#define RS4D_NATIVE_CUDA_SCAN_CUH

#include "cuda_device.cuh"

namespace rs4d_cuda {

constexpr int kScanThreads = 128, kScanChannels = 32, kScanTokens = 32;  // a block's, and a tile's tokens
constexpr int kShare = 4;                                                // lanes of one channel
constexpr int kScanRow = kScanChannels + 8;  // a quad's four tokens of y lie in different banks
constexpr float kLargestDecay = 1e12f;       // as on the CPU; also keeps 0 * infinity out
constexpr float kLargestSum = 3e38f;

// The states of one lane: one vector load.
template <int P>
struct alignas(4 * P) LaneStates {
  float value[P];
};

template <int N>
struct ScanTile {
  float u[kScanTokens][kScanRow];  // y once a token is done
  float delta[kScanTokens][kScanRow];
  LaneStates<N / kShare> b[kScanTokens][kShare], c[kScanTokens][kShare];
};

// Arrays as in cuda_kernels.cu; shape and strides in elements.
template <class T>
struct ScanInputs {
  const T *u, *delta;
  const float* a;
  const T *b, *c;
  const float *d, *dt_bias;
  int batch, length, channels, states, narrow_row, segment_tokens, reverse;
};

// Which part of the work is this block's.
struct ScanPlace {
  long long first;  // token of the arrays that is the sequence's first
  int channel0, begin, end, length;
  bool reverse;

  // Blocks: x groups of channels, y segments, z sequences, the first direction's before the second's.
  template <class T>
  RS4D_DEVICE explicit ScanPlace(const ScanInputs<T>& in)
      : first(static_cast<long long>(blockIdx.z) * in.length),
        channel0(static_cast<int>(blockIdx.x) * kScanChannels),
        begin(static_cast<int>(blockIdx.y) * in.segment_tokens),
        end(in.length - begin < in.segment_tokens ? in.length : begin + in.segment_tokens),
        length(in.length),
        reverse((blockIdx.z / static_cast<unsigned>(in.batch) + static_cast<unsigned>(in.reverse)) % 2 != 0) {}

  RS4D_DEVICE long long token(int step) const { return first + (reverse ? length - 1 - step : step); }
  RS4D_DEVICE int tokens(int step) const { return end - step < kScanTokens ? end - step : kScanTokens; }  // of a tile
};

// A tile on its way to shared memory, as it was loaded: conversions wait for the data and so happen on arrival. Each
// thread loads one column of u and delta and one of b and c, a few tokens apart.
template <class T, int N, bool kOutputs>
struct TileLoader {
  static constexpr int kWideGap = kScanThreads / kScanChannels, kNarrowGap = kScanThreads / N;  // tokens between loads
  static constexpr int kWide = kScanTokens / kWideGap, kNarrow = kScanTokens / kNarrowGap;
  T staged_u[kWide], staged_delta[kWide], staged_b[kNarrow], staged_c[kNarrow];
  const T *u, *delta, *b, *c;  // this thread's first elements of the next tile
  long long wide_step, narrow_step;
  int token, column, narrow_token, narrow_column;  // its first tokens in a tile, its columns there
  float bias;
  bool inside, narrow_inside, raw;  // raw: softplus is still to be taken

  RS4D_DEVICE TileLoader(const ScanInputs<T>& in, const ScanPlace& place) {
    const int thread = static_cast<int>(threadIdx.x), sign = place.reverse ? -1 : 1;
    token = thread / kScanChannels, column = thread % kScanChannels;
    narrow_token = thread / N, narrow_column = thread % N;
    const int channel = place.channel0 + column;
    inside = channel < in.channels, narrow_inside = narrow_column < in.states;
    const long long wide = inside ? place.token(place.begin + token) * in.channels + channel : 0;
    const long long first_row = place.token(place.begin + narrow_token);
    const long long narrow = narrow_inside ? first_row * in.narrow_row + narrow_column : 0;
    u = in.u + wide, delta = in.delta + wide, b = in.b + narrow, c = in.c + narrow;
    wide_step = static_cast<long long>(sign * kWideGap) * in.channels;
    narrow_step = static_cast<long long>(sign * kNarrowGap) * in.narrow_row;
    raw = in.dt_bias != nullptr;
    bias = raw && inside ? in.dt_bias[channel] : 0.0f;
  }

  // Only the sequence's last tile lacks tokens, and no state is read after it: any finite number serves in their place.
  RS4D_DEVICE void fetch(int tokens) {
#pragma unroll
    for (int i = 0; i < kWide; ++i) {
      const bool there = inside && i * kWideGap + token < tokens;
      staged_u[i] = there ? u[i * wide_step] : T();
      staged_delta[i] = there ? delta[i * wide_step] : T();
    }
#pragma unroll
    for (int i = 0; i < kNarrow; ++i) {
      const bool there = narrow_inside && i * kNarrowGap + narrow_token < tokens;
      staged_b[i] = there ? b[i * narrow_step] : T();
      if (kOutputs) staged_c[i] = there ? c[i * narrow_step] : T();
    }
  }

  RS4D_DEVICE void arrive(ScanTile<N>& tile) {
#pragma unroll
    for (int i = 0; i < kWide; ++i) {
      const int t = i * kWideGap + token;
      const float delta_read = to_float(staged_delta[i]);
      tile.u[t][column] = to_float(staged_u[i]);
      tile.delta[t][column] = raw ? softplus(delta_read + bias) : delta_read;
    }
    constexpr int kPart = N / kShare;
#pragma unroll
    for (int i = 0; i < kNarrow; ++i) {
      const int t = i * kNarrowGap + narrow_token;
      tile.b[t][narrow_column / kPart].value[narrow_column % kPart] = to_float(staged_b[i]);
      if (kOutputs) tile.c[t][narrow_column / kPart].value[narrow_column % kPart] = to_float(staged_c[i]);
    }
    u += kWide * wide_step, delta += kWide * wide_step, b += kNarrow * narrow_step, c += kNarrow * narrow_step;
  }
};

// Sums `values` over the four lanes of a channel; lane i of them gets the sum of values[i]. Three exchanges, not eight.
RS4D_DEVICE float share_sums(const float (&values)[kShare], int share) {
  const bool high = (share & 2) != 0, odd = (share & 1) != 0;
  float low = high ? values[2] : values[0], next = high ? values[3] : values[1];
  low += __shfl_xor_sync(0xffffffffu, high ? values[0] : values[2], 2);
  next += __shfl_xor_sync(0xffffffffu, high ? values[1] : values[3], 2);
  return (odd ? next : low) + __shfl_xor_sync(0xffffffffu, odd ? low : next, 1);
}

// One lane's states of one channel.
template <int N>
struct LaneScan {
  static constexpr int P = N / kShare;
  float decay[P], h[P], delta_sum;
  int local, share;  // channel in the block, place among its lanes

  template <class T>
  RS4D_DEVICE LaneScan(const ScanInputs<T>& in, const ScanPlace& place)
      : delta_sum(0.0f),
        local(static_cast<int>(threadIdx.x) / kShare),
        share(static_cast<int>(threadIdx.x) % kShare) {
    const int channel = place.channel0 + local;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const int n = share * P + p;
      const bool inside = channel < in.channels && n < in.states;
      decay[p] = inside ? fmaxf(in.a[static_cast<long long>(channel) * in.states + n] * kLog2E, -kLargestDecay) : 0.0f;
      h[p] = 0.0f;
    }
  }

  // Four tokens at a time, the last of which may be missing ones.
  template <bool kOutputs>
  RS4D_DEVICE void tile_scan(ScanTile<N>& tile, int tokens, float d) {
    float tile_sum = 0.0f;  // sums of sums: the rounding of a long sum would show in exp(a * sum)
    for (int t0 = 0; t0 < tokens; t0 += kShare) {
      float sums[kShare];
#pragma unroll
      for (int i = 0; i < kShare; ++i) {
        const int t = t0 + i;
        const float dt = tile.delta[t][local], input = dt * tile.u[t][local];
        const LaneStates<P> b = tile.b[t][share];
        LaneStates<P> c{};
        if (kOutputs) c = tile.c[t][share];
        tile_sum += dt;
        sums[i] = 0.0f;
#pragma unroll
        for (int p = 0; p < P; ++p) {
          h[p] = fmaf(exp2_approximate(dt * decay[p]), h[p], input * b.value[p]);
          sums[i] = fmaf(h[p], c.value[p], sums[i]);
        }
      }
      if (kOutputs) {
        const float sum = share_sums(sums, share);  // of token t0 + share; the four lanes are past reading its u
        float& cell = tile.u[t0 + share][local];
        cell = fmaf(d, cell, sum);
      }
    }
    delta_sum += tile_sum;
  }
};

// What the segments leave to those behind them, in one workspace: states (sequences, segments - 1, E, N), then sums of
// delta (sequences, segments - 1, E).
template <int N>
struct Carry {
  LaneStates<N / kShare>* states;
  float* sums;
  long long row;  // of segment 0 of this lane's channel
  int channels, share;

  template <class T>
  RS4D_DEVICE Carry(float* memory, const ScanInputs<T>& in, int segments_left, int channel, int lane_share)
      : states(reinterpret_cast<LaneStates<N / kShare>*>(memory)),
        sums(memory + static_cast<long long>(gridDim.z) * segments_left * in.channels * N),
        row(static_cast<long long>(blockIdx.z) * segments_left * in.channels + channel),
        channels(in.channels),
        share(lane_share) {}

  RS4D_DEVICE void load(LaneScan<N>& lane) const {
    const int before = static_cast<int>(blockIdx.y);
    for (int segment = 0; segment < before; ++segment) {
      const long long at = row + static_cast<long long>(segment) * channels;
      const LaneStates<N / kShare> final = states[at * kShare + share];
      const float sum = fminf(sums[at], kLargestSum);
#pragma unroll
      for (int p = 0; p < N / kShare; ++p)
        lane.h[p] = fmaf(exp2_approximate(sum * lane.decay[p]), lane.h[p], final.value[p]);
    }
  }

  RS4D_DEVICE void store(const LaneScan<N>& lane) const {
    const long long at = row + static_cast<long long>(blockIdx.y) * channels;
    LaneStates<N / kShare> final;
#pragma unroll
    for (int p = 0; p < N / kShare; ++p) final.value[p] = lane.h[p];
    states[at * kShare + share] = final;
    if (share == 0) sums[at] = lane.delta_sum;
  }
};

template <class T, int N, bool kOutputs>
RS4D_DEVICE void scan_tiles(ScanTile<N>& tile, const ScanInputs<T>& in, const ScanPlace& place, LaneScan<N>& lane,
                            float d, T* y) {
  using Loader = TileLoader<T, N, kOutputs>;
  Loader loader(in, place);
  T* out = y + (loader.u - in.u);
  int tokens = place.tokens(place.begin);
  loader.fetch(tokens);
  loader.arrive(tile);
  __syncthreads();
  for (int step = place.begin; step < place.end; step += kScanTokens) {
    const int following = place.tokens(step + kScanTokens);
    if (following > 0) loader.fetch(following);
    lane.template tile_scan<kOutputs>(tile, tokens, d);
    __syncthreads();
    if (kOutputs) {
#pragma unroll
      for (int i = 0; i < Loader::kWide; ++i) {
        const int t = i * Loader::kWideGap + loader.token;
        if (loader.inside && t < tokens) put(out[i * loader.wide_step], tile.u[t][loader.column]);
      }
      out += Loader::kWide * loader.wide_step;
    }
    // A thread's cells of y are those that its next u goes to, so there is no barrier between the two.
    if (following > 0) loader.arrive(tile);
    __syncthreads();
    tokens = following;
  }
}

template <class T, int N>
RS4D_DEVICE void scan_outputs(ScanTile<N>& tile, const ScanInputs<T>& in, T* y, float* carry) {
  const ScanPlace place(in);
  LaneScan<N> lane(in, place);
  const int channel = place.channel0 + lane.local, segments_left = static_cast<int>(gridDim.y) - 1;
  const bool inside = channel < in.channels;
  if (inside) Carry<N>(carry, in, segments_left, channel, lane.share).load(lane);
  scan_tiles<T, N, true>(tile, in, place, lane, inside ? in.d[channel] : 0.0f, y);
}

template <class T, int N>
RS4D_DEVICE void scan_states(ScanTile<N>& tile, const ScanInputs<T>& in, T* y, float* carry) {
  const ScanPlace place(in);
  LaneScan<N> lane(in, place);
  const int channel = place.channel0 + lane.local, segments_left = static_cast<int>(gridDim.y);
  scan_tiles<T, N, false>(tile, in, place, lane, 0.0f, y);
  if (channel < in.channels) Carry<N>(carry, in, segments_left, channel, lane.share).store(lane);
}

}  // namespace rs4d_cuda

#endif
