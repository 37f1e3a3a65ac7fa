// Checks the shapes, picks the instruction set, cuts the scan into units of work, and sums the partial gradients.
#include "scan.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "kernels.h"
#include "parallel.h"

namespace rs4d {
namespace {

std::atomic<const Kernels*> forced{nullptr};

const Kernels* best_kernels() {
  static const Kernels* const best = [] {
    if (const Kernels* kernels = avx512_kernels()) return kernels;
    if (const Kernels* kernels = avx2_kernels()) return kernels;
    return base_kernels();
  }();
  return best;
}

int check(const rs4d_scan_inputs& in) {
  if (in.batch < 0 || in.length < 0 || in.channels < 1 || in.states < 1) return RS4D_BAD_SHAPE;
  return in.states * kMaxLanes > kStateFloats ? RS4D_TOO_MANY_STATES : RS4D_OK;
}

// `scans` scans of the same sizes, each cut into `groups` runs of `group` channels of each sequence.
struct Forward {
  const rs4d_scan_inputs* in;
  float* const* y;
  const Kernels* kernels;
  int64_t scans, groups, group;
};

void forward_body(void* context, int64_t index, int) {
  const Forward& call = *static_cast<const Forward*>(context);
  const int64_t scan = index % call.scans, first = index / call.scans % call.groups * call.group;
  const rs4d_scan_inputs& in = call.in[scan];
  const Unit unit{index / (call.scans * call.groups), first, std::min(call.group, in.channels - first)};
  call.kernels->forward(in, call.y[scan], unit);
}

// Channels of a unit are a multiple of the widest vector, few enough for the stack. One or two threads walk over whole
// tokens where they can: rows are then read as they lie in memory, each page once. More threads take narrower units,
// four for each thread, so that none waits long for the last.
int forward_scans(const rs4d_scan_inputs* in, int64_t scans, float* const* y) {
  if (in->batch == 0 || in->length == 0) return RS4D_OK;
  const int64_t blocks = (in->channels + kMaxLanes - 1) / kMaxLanes, sequences = scans * in->batch;
  const int64_t most = std::max<int64_t>(1, std::min(kStateFloats / in->states, kUnitChannels) / kMaxLanes);
  const int64_t threads = thread_count(in->threads, sequences * blocks);
  const int64_t few = sequences % threads ? threads : 1, many = (threads * 4 + sequences - 1) / sequences;
  const int64_t groups = std::min(blocks, std::max((blocks + most - 1) / most, threads <= 2 ? few : many));
  const int64_t group = (blocks + groups - 1) / groups;
  Forward call{in, y, kernels_in_use(), scans, (blocks + group - 1) / group, group * kMaxLanes};
  parallel_for(static_cast<int>(threads), sequences * call.groups, forward_body, &call);
  return RS4D_OK;
}

// The backward pass's workspace: partial sums, then one scratch per thread.
struct Layout {
  int64_t groups, group, b, a, d, scratch, threads, total;

  explicit Layout(const rs4d_scan_inputs& in) {
    groups = (in.channels + kBackwardGroup - 1) / kBackwardGroup;
    const int64_t blocks = (in.channels + kMaxLanes - 1) / kMaxLanes;
    group = (blocks + groups - 1) / groups * kMaxLanes;
    groups = (in.channels + group - 1) / group;
    b = in.batch * groups * in.length * in.states;
    a = in.batch * in.channels * in.states;
    d = in.batch * in.channels;
    scratch = backward_scratch_floats(in.length, in.states);
    threads = thread_count(in.threads, in.batch * groups);
    total = 2 * b + a + d + threads * scratch;
  }
};

struct Backward {
  const rs4d_scan_inputs* in;
  const float* grad_y;
  const rs4d_scan_gradients* grads;
  const Kernels* kernels;
  Layout layout;
  float *b, *c, *a, *d, *scratch;
};

void backward_body(void* context, int64_t index, int worker) {
  const Backward& call = *static_cast<const Backward*>(context);
  const rs4d_scan_inputs& in = *call.in;
  const int64_t batch = index / call.layout.groups, first = index % call.layout.groups * call.layout.group;
  const Unit unit{batch, first, std::min(call.layout.group, in.channels - first)};
  const int64_t rows = index * in.length * in.states;
  const Partials partials{call.b + rows, call.c + rows, call.a + batch * in.channels * in.states,
                          call.d + batch * in.channels, call.scratch + worker * call.layout.scratch};
  call.kernels->backward(in, call.grad_y, *call.grads, unit, partials);
}

// out[i] = sum over k of parts[k * size + i], in the order of k.
void sum_parts(const float* parts, int64_t count, int64_t size, float* out) {
  std::fill(out, out + size, 0.0f);
  for (int64_t k = 0; k < count; ++k)
    for (int64_t i = 0; i < size; ++i) out[i] += parts[k * size + i];
}

void fold_body(void* context, int64_t batch, int) {
  const Backward& call = *static_cast<const Backward*>(context);
  const int64_t size = call.in->length * call.in->states, groups = call.layout.groups;
  sum_parts(call.b + batch * groups * size, groups, size, call.grads->b + batch * size);
  sum_parts(call.c + batch * groups * size, groups, size, call.grads->c + batch * size);
}

}  // namespace

const Kernels* kernels_in_use() {
  const Kernels* chosen = forced.load();
  return chosen ? chosen : best_kernels();
}

int64_t backward_scratch_floats(int64_t length, int64_t states) {
  const int64_t intervals = (length + kCheckpoint - 1) / kCheckpoint, all = kBackwardGroup * states;
  return all * (3 + intervals) + 2 * kBackwardGroup + states * kMaxLanes * (4 * kCheckpoint + 1);
}

}  // namespace rs4d

using namespace rs4d;

int rs4d_abi_version(void) { return RS4D_ABI_VERSION; }

const char* rs4d_isa(void) { return kernels_in_use()->name; }

int rs4d_select_isa(const char* name) {
  if (std::strcmp(name, "auto") == 0) {
    forced.store(nullptr);
    return RS4D_OK;
  }
  for (const Kernels* kernels : {avx512_kernels(), avx2_kernels(), base_kernels()}) {
    const bool base = kernels == base_kernels() && std::strcmp(name, "base") == 0;
    if (kernels && (base || std::strcmp(name, kernels->name) == 0)) {
      forced.store(kernels);
      return RS4D_OK;
    }
  }
  return RS4D_UNKNOWN_ISA;
}

int rs4d_scan_forward(const rs4d_scan_inputs* inputs, float* y) {
  if (const int error = check(*inputs)) return error;
  return forward_scans(inputs, 1, &y);
}

int rs4d_scan_bidirectional(const rs4d_scan_inputs pair[2], float* const y[2]) {
  if (const int error = check(pair[0])) return error;
  const bool same = pair[0].batch == pair[1].batch && pair[0].length == pair[1].length &&
                    pair[0].channels == pair[1].channels && pair[0].states == pair[1].states;
  return same ? forward_scans(pair, 2, y) : RS4D_BAD_SHAPE;
}

int64_t rs4d_scan_workspace(const rs4d_scan_inputs* inputs) {
  if (const int error = check(*inputs)) return -error;
  return Layout(*inputs).total;
}

int rs4d_scan_backward(const rs4d_scan_inputs* inputs, const float* grad_y, const rs4d_scan_gradients* gradients,
                       float* workspace) {
  if (const int error = check(*inputs)) return error;
  const Layout layout(*inputs);
  float *b = workspace, *c = b + layout.b, *a = c + layout.b, *d = a + layout.a;
  Backward call{inputs, grad_y, gradients, kernels_in_use(), layout, b, c, a, d, d + layout.d};
  if (inputs->length == 0) std::fill(a, call.scratch, 0.0f);
  const int threads = static_cast<int>(layout.threads);
  if (inputs->length) parallel_for(threads, inputs->batch * layout.groups, backward_body, &call);
  parallel_for(threads, inputs->batch, fold_body, &call);
  sum_parts(a, inputs->batch, inputs->channels * inputs->states, gradients->a);
  sum_parts(d, inputs->batch, inputs->channels, gradients->d);
  return RS4D_OK;
}
