// What the front (scan.cpp) and the kernels of each instruction set share.
#pragma once

#include <cstdint>

#include "scan.h"

namespace rs4d {

// Channels of one unit of backward work. Fixed, so that sums over channels are formed in one order everywhere.
constexpr int64_t kBackwardGroup = 128;
// Tokens between two stored states in the backward pass: 16 tokens x 16 states x 16 lanes stay in the L1 cache.
constexpr int64_t kCheckpoint = 16;
// Tokens that the forward pass takes before moving to the next channels, at most: their rows stay in the L2 cache.
constexpr int64_t kTile = 32;
constexpr int64_t kMaxLanes = 16;
// Floats of state that one unit of forward work keeps on its stack, and its channels at most.
constexpr int64_t kStateFloats = 8192;
constexpr int64_t kUnitChannels = 1024;
// Tokens x states of a tile whose b and c stand once for each lane: 8 kB with 8 lanes. A tile has one token at least.
constexpr int64_t kWideStates = 128;
constexpr int64_t kWideFloats = 2 * kStateFloats / kMaxLanes * 8;

// One unit of work: `count` channels from `first` of the sequence `batch`.
struct Unit {
  int64_t batch, first, count;
};

// Where a unit's backward pass puts what must still be summed over groups or sequences.
struct Partials {
  float *b, *c;  // (length, states) of this unit's group
  float *a, *d;  // (channels, states) and (channels) of this sequence
  float* scratch;
};

// Tokens of a tile of the mixer's core: its rows stay in the L2 cache.
constexpr int64_t kMixerTile = 32;

// The mixer's weights as the kernels read them, and the padded widths. The arrays from x_proj on are one run of
// `packed` floats. x_proj (channels, narrow), dt_proj (rank, channels), conv_weight (taps, channels), decay as in the
// scan.
struct MixerMemory {
  float *x_proj, *dt_proj, *conv_weight, *conv_bias, *dt_bias, *skip, *zeros, *decay, *limit;
  int64_t channels, narrow, packed;
};

// One direction of the sequence `batch` over the tokens [begin, end) in scan order, and `channels` from `first` on.
struct MixerUnit {
  int64_t batch, begin, end, first, channels;
  bool reverse, second_half;
};

// Rows of the tokens from a unit's `begin` on: v and delta (tokens, channels), narrow (tokens, narrow): dt, b and c.
struct MixerRows {
  float *v, *delta, *narrow;
};

struct Kernels {
  const char* name;
  void (*forward)(const rs4d_scan_inputs& inputs, float* y, const Unit& unit);
  void (*backward)(const rs4d_scan_inputs& inputs, const float* grad_y, const rs4d_scan_gradients& gradients,
                   const Unit& unit, const Partials& partials);
  void (*mixer_prepare)(const rs4d_mixer_inputs& inputs, const MixerMemory& memory);
  void (*mixer_project)(const rs4d_mixer_inputs& inputs, const MixerMemory& memory, const MixerUnit& unit,
                        const MixerRows& rows);
  void (*mixer_scan)(const rs4d_mixer_inputs& inputs, float* y, const MixerMemory& memory, const MixerUnit& unit,
                     const MixerRows& rows, float* state);
};

const Kernels* kernels_in_use();

const Kernels* avx512_kernels();  // nullptr where not compiled in or not supported by this machine
const Kernels* avx2_kernels();
const Kernels* base_kernels();  // never nullptr

// Floats of scratch that one thread needs in the backward pass.
int64_t backward_scratch_floats(int64_t length, int64_t states);

}  // namespace rs4d
