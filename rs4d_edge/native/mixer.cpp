// The mixer's core: checks shapes, lays out the workspace, and cuts the work among the threads.
//
// Each direction begins where the other ends: the first pass covers one half of the tokens from either side, and the
// second finds the other direction's output of its tokens ready. With up to two threads for each sequence, one of them
// takes a direction tile by tile through the caches. More take it in segments: a tile each for what tokens do not
// share, then some channels each for the scan. A token's arithmetic, and the order of it, is the same in both.
#include <algorithm>
#include <cstring>

#include "kernels.h"
#include "parallel.h"

namespace rs4d {
namespace {

// Tokens of a segment: enough tiles for many threads, few enough to stay in the last-level cache.
constexpr int64_t kSegment = 1024;

int check(const rs4d_mixer_inputs& in) {
  const bool positive = in.channels > 0 && in.states > 0 && in.rank > 0 && in.taps > 0;
  if (!positive || in.batch < 0 || in.length < 0) return RS4D_BAD_SHAPE;
  return in.states * kMaxLanes > kStateFloats ? RS4D_TOO_MANY_STATES : RS4D_OK;
}

int64_t rounded_up(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

// Where everything lies in the workspace; with nullptr, how long it is.
struct Layout {
  MixerMemory memory;
  float *states, *rows;
  int64_t state_floats, rows_floats, rows_tokens, threads, total;
  bool segments;

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
    m.channels = rounded_up(in.channels, kMaxLanes), m.narrow = rounded_up(in.rank + 2 * in.states, kMaxLanes);
    m.x_proj = take(m.channels * m.narrow), m.dt_proj = take(in.rank * m.channels);
    m.conv_weight = take(in.taps * m.channels), m.conv_bias = take(m.channels), m.dt_bias = take(m.channels);
    m.skip = take(m.channels), m.zeros = take(m.narrow), m.decay = take(m.channels * in.states);
    m.limit = take(m.channels);
    m.packed = total;
    const int64_t directions = 2 * in.batch, half = rounded_up(in.length / 2 + 1, kMixerTile);
    threads = thread_count(in.threads, directions * std::max(half / kMixerTile, m.channels / kMaxLanes));
    segments = threads > directions;
    rows_tokens = segments ? std::min(kSegment, half) : kMixerTile;
    state_floats = m.channels * in.states, rows_floats = rows_tokens * (2 * m.channels + m.narrow);
    states = take(directions * state_floats), rows = take((segments ? directions : threads) * rows_floats);
  }

  // The rows from the token `done` of the run of rows `index` on.
  MixerRows at(int64_t index, int64_t done) const {
    float *v = rows + index * rows_floats, *delta = v + rows_tokens * memory.channels;
    float* narrow = delta + rows_tokens * memory.channels;
    return {v + done * memory.channels, delta + done * memory.channels, narrow + done * memory.narrow};
  }
};

struct Call {
  const rs4d_mixer_inputs* in;
  float* y;
  const Kernels* kernels;
  Layout layout;
  bool second_half;
  int64_t segment, groups, group;  // first token of the segment in this half; runs of channels, channels of each

  // All channels of the tokens of one direction in this half, counted from `from` and at most `most` of them.
  MixerUnit unit(int64_t direction, int64_t from, int64_t most) const {
    const bool reverse = direction % 2;
    const int64_t length = in->length, middle = reverse ? length - length / 2 : length / 2;
    const int64_t end = second_half ? length : middle, begin = std::min(end, (second_half ? middle : 0) + from);
    return {direction / 2, begin, std::min(end, begin + most), 0, layout.memory.channels, reverse, second_half};
  }
};

void stream_body(void* context, int64_t direction, int worker) {
  const Call& call = *static_cast<const Call*>(context);
  const Layout& layout = call.layout;
  const MixerRows rows = layout.at(worker, 0);
  float* state = layout.states + direction * layout.state_floats;
  for (int64_t done = 0;; done += kMixerTile) {
    const MixerUnit tile = call.unit(direction, done, kMixerTile);
    if (tile.begin == tile.end) return;
    call.kernels->mixer_project(*call.in, layout.memory, tile, rows);
    call.kernels->mixer_scan(*call.in, call.y, layout.memory, tile, rows, state);
  }
}

void project_body(void* context, int64_t index, int) {
  const Call& call = *static_cast<const Call*>(context);
  const int64_t directions = 2 * call.in->batch, direction = index % directions, done = index / directions * kMixerTile;
  const MixerUnit tile = call.unit(direction, call.segment + done, kMixerTile);
  if (tile.begin == tile.end) return;
  call.kernels->mixer_project(*call.in, call.layout.memory, tile, call.layout.at(direction, done));
}

void scan_body(void* context, int64_t index, int) {
  const Call& call = *static_cast<const Call*>(context);
  const int64_t directions = 2 * call.in->batch, direction = index % directions;
  MixerUnit unit = call.unit(direction, call.segment, call.layout.rows_tokens);
  if (unit.begin == unit.end) return;
  unit.first = index / directions * call.group;
  unit.channels = std::min(call.group, unit.channels - unit.first);
  float* state = call.layout.states + direction * call.layout.state_floats;
  call.kernels->mixer_scan(*call.in, call.y, call.layout.memory, unit, call.layout.at(direction, 0), state);
}

void run_segments(Call& call) {
  const Layout& layout = call.layout;
  const int threads = static_cast<int>(layout.threads);
  const int64_t directions = 2 * call.in->batch, blocks = layout.memory.channels / kMaxLanes;
  const int64_t wanted = std::min(blocks, (2 * layout.threads + directions - 1) / directions);
  call.group = (blocks + wanted - 1) / wanted * kMaxLanes;
  call.groups = (layout.memory.channels + call.group - 1) / call.group;
  for (call.segment = 0; call.segment < (call.in->length + 1) / 2; call.segment += layout.rows_tokens) {
    parallel_for(threads, directions * (layout.rows_tokens / kMixerTile), project_body, &call);
    parallel_for(threads, directions * call.groups, scan_body, &call);
  }
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
  Call call{inputs, y, kernels_in_use(), Layout(*inputs, workspace), false, 0, 1, 0};
  const Layout& layout = call.layout;
  call.kernels->mixer_prepare(*inputs, layout.memory);
  std::memset(layout.states, 0, sizeof(float) * static_cast<std::size_t>(2 * inputs->batch * layout.state_floats));
  for (const bool second_half : {false, true}) {
    call.second_half = second_half;
    if (layout.segments) {
      run_segments(call);
    } else {
      parallel_for(static_cast<int>(layout.threads), 2 * inputs->batch, stream_body, &call);
    }
  }
  return RS4D_OK;
}
