// What the front (scan.cpp) and the kernels of each instruction set share.
#pragma once

#include <cstdint>

#include "scan.h"

namespace rs4d {

// Channels of one unit of backward work. Fixed, so that sums over channels are formed in one order everywhere.
constexpr int64_t kBackwardGroup = 128;
// Tokens between two stored states in the backward pass: 16 tokens x 16 states x 16 lanes stay in the L1 cache.
constexpr int64_t kCheckpoint = 16;
// Tokens that the forward pass takes before moving to the next channels: their rows stay in the L2 cache.
constexpr int64_t kTile = 64;
// Floats of state that one unit of forward work keeps on its stack.
constexpr int64_t kStateFloats = 8192;
constexpr int64_t kMaxLanes = 16;

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

struct Kernels {
  const char* name;
  void (*forward)(const rs4d_scan_inputs& inputs, float* y, const Unit& unit);
  void (*backward)(const rs4d_scan_inputs& inputs, const float* grad_y, const rs4d_scan_gradients& gradients,
                   const Unit& unit, const Partials& partials);
};

const Kernels* avx512_kernels();  // nullptr where not compiled in or not supported by this machine
const Kernels* avx2_kernels();
const Kernels* base_kernels();  // never nullptr

// Floats of scratch that one thread needs in the backward pass.
int64_t backward_scratch_floats(int64_t length, int64_t states);

}  // namespace rs4d
