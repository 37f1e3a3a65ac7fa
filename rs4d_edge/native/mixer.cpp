// The mixer's core: checks shapes, lays out the workspace, and cuts the work by sequence and direction.
#include <algorithm>
#include <cstring>

#include "kernels.h"
#include "parallel.h"

namespace rs4d {
namespace {

int check(const rs4d_mixer_inputs& in) {
  const bool positive = in.channels > 0 && in.states > 0 && in.rank > 0 && in.taps > 0;
  if (!positive || in.batch < 0 || in.length < 0) return RS4D_BAD_SHAPE;
  return in.states * kMaxLanes > kStateFloats ? RS4D_TOO_MANY_STATES : RS4D_OK;
}

int64_t padded(int64_t count) { return (count + kMaxLanes - 1) / kMaxLanes * kMaxLanes; }

// Where everything lies in the workspace; with nullptr, how long it is.
struct Layout {
  MixerMemory memory;
  float *states, *tiles;
  int64_t state_floats, tile_floats, threads, total;

  Layout(const rs4d_mixer_inputs& in, float* workspace) {
    float* next = workspace;
    total = 0;
    const auto take = [&](int64_t floats) {
      float* taken = next;
      if (next) next += floats;
      total += floats;
      return taken;
    };
    MixerMemory& m = memory;
    m.channels = padded(in.channels), m.narrow = padded(in.rank + 2 * in.states);
    m.x_proj = take(m.channels * m.narrow), m.dt_proj = take(in.rank * m.channels);
    m.conv_weight = take(in.taps * m.channels), m.conv_bias = take(m.channels), m.dt_bias = take(m.channels);
    m.skip = take(m.channels), m.zeros = take(m.narrow), m.decay = take(m.channels * in.states);
    m.limit = take(m.channels);
    m.packed = total;
    state_floats = m.channels * in.states, tile_floats = kMixerTile * (3 * m.channels + m.narrow);
    threads = thread_count(in.threads, 2 * in.batch);
    states = take(2 * in.batch * state_floats), tiles = take(threads * tile_floats);
  }
};

struct Call {
  const rs4d_mixer_inputs* in;
  float* y;
  const Kernels* kernels;
  Layout layout;
  bool second_half;
};

void body(void* context, int64_t index, int worker) {
  const Call& call = *static_cast<const Call*>(context);
  const Layout& layout = call.layout;
  // Each direction begins where the other ends: the first pass covers one half of the tokens from either side, and the
  // second finds the other direction's output of its tokens ready.
  const bool reverse = index % 2;
  const int64_t length = call.in->length, middle = reverse ? length - length / 2 : length / 2;
  const MixerUnit unit{index / 2, call.second_half ? middle : 0, call.second_half ? length : middle, reverse,
                       call.second_half};
  float* memory = layout.tiles + worker * layout.tile_floats;
  const int64_t rows = kMixerTile * layout.memory.channels;
  const MixerTile tile{memory, memory + rows, memory + 2 * rows, memory + 3 * rows};
  float* state = layout.states + index * layout.state_floats;
  call.kernels->mixer(*call.in, call.y, layout.memory, unit, tile, state);
}

}  // namespace
}  // namespace rs4d

using namespace rs4d;

int64_t rs4d_mixer_workspace(const rs4d_mixer_inputs* inputs) {
  if (const int error = check(*inputs)) return -error;
  return Layout(*inputs, nullptr).total;
}

int rs4d_mixer_core(const rs4d_mixer_inputs* inputs, float* y, float* workspace) {
  if (const int error = check(*inputs)) return error;
  if (inputs->batch == 0 || inputs->length == 0) return RS4D_OK;
  Call call{inputs, y, kernels_in_use(), Layout(*inputs, workspace), false};
  call.kernels->mixer_prepare(*inputs, call.layout.memory);
  std::memset(call.layout.states, 0,
              sizeof(float) * static_cast<std::size_t>(2 * inputs->batch * call.layout.state_floats));
  const int threads = static_cast<int>(call.layout.threads);
  parallel_for(threads, 2 * inputs->batch, body, &call);
  call.second_half = true;
  parallel_for(threads, 2 * inputs->batch, body, &call);
  return RS4D_OK;
}
