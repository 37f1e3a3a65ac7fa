// ONNX Runtime custom op library, domain "rs4d": SelectiveScan and MixerCore, with tensors as scan.h has them.
//
// Linked to nothing of the runtime, which hands its interface over when it loads the library. Work runs on the threads
// of the session (KernelContext_ParallelFor), so its thread count holds and no second pool competes with it.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>

#include "onnxruntime_op.h"
#include "onnxruntime_pool.h"
#include "scan.h"

namespace rs4d::ort {
namespace {

// The context of the Compute call that this thread is in, for session_parallel_for.
thread_local OrtKernelContext* current_context = nullptr;

struct ContextScope {
  explicit ContextScope(OrtKernelContext* context) { current_context = context; }
  ~ContextScope() { current_context = nullptr; }
};

// As many as the machine has processors, since the session does not say how many threads it has; those too many find
// nothing left to do. Asked for once, because the answer is read from a file each time (10 us).
int workers() {
  static const int processors = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  return processors;
}

// Memory of one calling thread, kept from node to node and from frame to frame, and shared by all sessions.
class Workspace {
 public:
  float* floats(int64_t count) {
    if (count > held_) {
      memory_.reset();
      held_ = 0;
      memory_.reset(static_cast<float*>(::operator new(sizeof(float) * static_cast<size_t>(count), kAlignment)));
      held_ = count;
    }
    return memory_.get();
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(float* memory) const { ::operator delete(memory, kAlignment); }
  };
  std::unique_ptr<float, Free> memory_;
  int64_t held_ = 0;
};

OrtStatus* compute_scan(const Kernel& kernel, OrtKernelContext* context) {
  const Operator& op = kernel.op;
  Tensors in;
  if (OrtStatus* error = op.read(context, in)) return error;
  const Shape &u = in[0].shape, &a = in[2].shape;
  if (u.axes != 3 || a.axes != 2) return op.failure("u is " + text(u) + " and a is " + text(a));
  const int64_t batch = u.sizes[0], length = u.sizes[1], channels = u.sizes[2], states = a.sizes[1];
  const Shape decay{{channels, states}, 2}, narrow{{batch, length, states}, 3}, skip{{channels}, 1};
  if (OrtStatus* error = op.check(in, {u, u, decay, narrow, narrow, skip})) return error;
  float* y = nullptr;
  if (OrtStatus* error = make_output(context, u, &y)) return error;
  const rs4d_scan_inputs inputs{in[0].data, in[1].data, in[2].data, in[3].data, in[4].data,     in[5].data,
                                batch,      length,     channels,   states,     kernel.reverse, workers()};
  const ContextScope scope(context);
  const int code = rs4d_scan_forward(&inputs, y);
  return code == RS4D_OK ? nullptr : op.failure("error " + std::to_string(code) + " of scan.h");
}

OrtStatus* compute_mixer(const Kernel& kernel, OrtKernelContext* context) {
  thread_local Workspace workspace;
  const Operator& op = kernel.op;
  Tensors in;
  if (OrtStatus* error = op.read(context, in)) return error;
  const Shape &uz = in[0].shape, &taps = in[1].shape, &dt_proj = in[4].shape, &a = in[6].shape;
  if (uz.axes != 3 || taps.axes != 2 || dt_proj.axes != 2 || a.axes != 2) {
    return op.failure("uz is " + text(uz) + ", conv_weight " + text(taps) + ", dt_proj " + text(dt_proj) + ", a " +
                      text(a));
  }
  const int64_t batch = uz.sizes[0], length = uz.sizes[1], channels = a.sizes[0], states = a.sizes[1];
  const int64_t rank = dt_proj.sizes[1], width = taps.sizes[1];
  const Shape each{{channels}, 1};
  const Shapes wanted{Shape{{batch, length, 2 * channels}, 3}, Shape{{channels, width}, 2}, each,
                      Shape{{rank + 2 * states, channels}, 2}, Shape{{channels, rank}, 2},  each, a, each};
  if (OrtStatus* error = op.check(in, wanted)) return error;
  float* y = nullptr;
  if (OrtStatus* error = make_output(context, Shape{{batch, length, channels}, 3}, &y)) return error;
  const rs4d_mixer_inputs inputs{in[0].data, in[1].data, in[2].data, in[3].data, in[4].data,
                                 in[5].data, in[6].data, in[7].data, batch,      length,
                                 channels,   states,     rank,       width,      workers()};
  const ContextScope scope(context);
  const int64_t floats = rs4d_mixer_workspace(&inputs);
  const int code = floats < 0 ? static_cast<int>(-floats) : rs4d_mixer_core(&inputs, y, workspace.floats(floats));
  return code == RS4D_OK ? nullptr : op.failure("error " + std::to_string(code) + " of scan.h");
}

const Operator kOperators[] = {
    {"SelectiveScan", {"u", "delta", "a", "b", "c", "d"}, 1, compute_scan},
    {"MixerCore", {"uz", "conv_weight", "conv_bias", "x_proj", "dt_proj", "dt_bias", "a", "d"}, 2, compute_mixer},
};

// The domain that every session with this library shares. Sessions keep the library loaded, so it outlives them.
struct Domain {
  std::mutex lock;
  OrtCustomOpDomain* made = nullptr;

  ~Domain() {
    if (made) api->ReleaseCustomOpDomain(made);
  }

  OrtStatus* make(const Api* offered) {
    const std::lock_guard<std::mutex> guard(lock);
    if (made && offered != api) return offered->CreateStatus(kFail, "rs4d's operators serve another ONNX Runtime here");
    if (made) return nullptr;
    api = offered;
    OrtCustomOpDomain* domain = nullptr;
    if (OrtStatus* error = api->CreateCustomOpDomain("rs4d", &domain)) return error;
    for (const Operator& op : kOperators) {
      if (OrtStatus* error = api->CustomOpDomain_Add(domain, &op)) {
        api->ReleaseCustomOpDomain(domain);
        return error;
      }
    }
    made = domain;
    return nullptr;
  }
};

// Version 1 of the interface has CreateStatus too, so even a runtime that is too old can be told.
OrtStatus* refuse(const ApiBase* base) {
  const std::string version = base->GetVersionString();
  const std::string least = "1." + std::to_string(kRuntimeMinor);
  const std::string message = "rs4d's operators need ONNX Runtime " + least + " or newer; this is " + version;
  return base->GetApi(1)->CreateStatus(kFail, message.c_str());
}

// Asked before the interface is, because a runtime that lacks the version prints a complaint of its own.
bool new_enough(const char* version) {
  int major = 0, minor = 0;
  return std::sscanf(version, "%d.%d", &major, &minor) == 2 && (major > 1 || minor >= kRuntimeMinor);
}

}  // namespace
}  // namespace rs4d::ort

namespace rs4d {

void session_parallel_for(int workers, void (*work)(void* data, size_t worker), void* data) {
  const size_t total = static_cast<size_t>(workers);
  OrtStatus* error = ort::api->KernelContext_ParallelFor(ort::current_context, work, total, 0, data);
  if (!error) return;
  ort::api->ReleaseStatus(error);  // nothing has run; units that are done are not done twice
  for (size_t worker = 0; worker < total; ++worker) work(data, worker);
}

}  // namespace rs4d

// What the runtime looks for when it loads a library of operators.
extern "C" RS4D_EXPORT OrtStatus* RS4D_ORT_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                  const rs4d::ort::ApiBase* base) {
  using namespace rs4d::ort;
  static Domain domain;
  const Api* offered = new_enough(base->GetVersionString()) ? base->GetApi(kApiVersion) : nullptr;
  if (!offered) return refuse(base);
  if (OrtStatus* error = domain.make(offered)) return error;
  return api->AddCustomOpDomain(options, domain.made);
}
