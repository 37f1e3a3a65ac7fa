// The kernels on the CPU behind as much of the CUDA driver's interface as rs4d_edge/native/cuda_driver.py calls: the
// same Python launches the same kernels with the same arguments. See cuda_emulation.h.
#include "cuda_emulation.h"

#include <ucontext.h>

#include <memory>
#include <utility>
#include <vector>

#include "cuda_kernels.cu"

#ifdef __SSE2__
#include <immintrin.h>
#endif

// The linker's names for the ends of the section.
extern char __start_emulated_shared[] __attribute__((visibility("hidden")));
extern char __stop_emulated_shared[] __attribute__((visibility("hidden")));

namespace emulation {

Index thread, block, grid;
float exponential_error = 0.0f;

namespace {

constexpr std::size_t kStackBytes = 128 * 1024;
constexpr unsigned kWarp = 32;
enum class State { kReady, kBarrier, kShuffle, kDone };

struct Fibre {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  State state;
  float offered[2];  // to the warp, in turns: none is overwritten before all have read it
  bool votes[2];     // the same to the block
  unsigned turn, block_turn;
};

std::vector<Fibre> fibres;
ucontext_t scheduler;
unsigned current, block_threads;
void (*kernel)(void** arguments);
void** kernel_arguments;

void wait_for(State state) {
  fibres[current].state = state;
  swapcontext(&fibres[current].context, &scheduler);
}

void run_kernel() {
  kernel(kernel_arguments);
  fibres[current].state = State::kDone;  // uc_link leads back to the scheduler
}

void start(unsigned threads) {
  if (fibres.size() < threads) fibres.resize(threads);
  for (unsigned i = 0; i < threads; ++i) {
    Fibre& fibre = fibres[i];
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack.get();
    fibre.context.uc_stack.ss_size = kStackBytes;
    fibre.context.uc_link = &scheduler;
    makecontext(&fibre.context, run_kernel, 0);
    fibre.state = State::kReady, fibre.turn = fibre.block_turn = 0;
  }
}

// Sets `first` to `last` going on if all of them wait in `state`; whether they did.
bool release(unsigned first, unsigned last, State state) {
  for (unsigned i = first; i < last; ++i)
    if (fibres[i].state != state) return false;
  for (unsigned i = first; i < last; ++i) fibres[i].state = State::kReady;
  return true;
}

// Runs one block; `descending` is the order of its threads. False where some wait at what the others never reach.
bool run_block(unsigned threads, bool descending) {
  const auto shared_bytes = static_cast<std::size_t>(__stop_emulated_shared - __start_emulated_shared);
  std::memset(__start_emulated_shared, 0xff, shared_bytes);
  block_threads = threads;
  start(threads);
  for (;;) {
    for (unsigned i = 0; i < threads; ++i) {
      current = descending ? threads - 1 - i : i;
      if (fibres[current].state != State::kReady) continue;
      thread = {current, 0, 0};
      swapcontext(&scheduler, &fibres[current].context);
    }
    bool done = true, released = false;
    for (unsigned i = 0; i < threads; ++i) done = done && fibres[i].state == State::kDone;
    if (done) return true;
    for (unsigned i = 0; i < threads; i += kWarp) released = release(i, i + kWarp, State::kShuffle) || released;
    if (!released && !release(0, threads, State::kBarrier)) return false;
  }
}

// Denormals count as zero inside the kernels, as the device's code is compiled; where this processor can be told so.
class FlushDenormals {
#ifdef __SSE2__
  const unsigned before_ = _mm_getcsr();

 public:
  FlushDenormals() { _mm_setcsr(before_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before_); }
#else
 public:
  FlushDenormals() {}
#endif
  FlushDenormals(const FlushDenormals&) = delete;
};

template <class... Parameters, std::size_t... I>
void call(void (*function)(Parameters...), void** arguments, std::index_sequence<I...>) {
  function(*static_cast<Parameters*>(arguments[I])...);
}

template <auto Function>
struct Launcher;

template <class... Parameters, void (*Function)(Parameters...)>
struct Launcher<Function> {
  static void run(void** arguments) { call(Function, arguments, std::index_sequence_for<Parameters...>()); }
};

struct Kernel {
  const char* name;
  void (*run)(void** arguments);
};

#define NAMED(KERNEL) {#KERNEL, Launcher<KERNEL>::run}
#define KERNELS_OF(TYPE)                                                                                    \
  NAMED(rs4d_scan_##TYPE##_n8), NAMED(rs4d_scan_##TYPE##_n16), NAMED(rs4d_states_##TYPE##_n8),              \
      NAMED(rs4d_states_##TYPE##_n16), NAMED(rs4d_conv_##TYPE), NAMED(rs4d_gate_##TYPE),               \
      NAMED(rs4d_roi_align_##TYPE)

const Kernel kKernels[] = {KERNELS_OF(f32), KERNELS_OF(f16), KERNELS_OF(bf16), NAMED(rs4d_nms_overlaps),
                           NAMED(rs4d_nms_settle)};

}  // namespace

void barrier() { wait_for(State::kBarrier); }

namespace {

// Shows `value` to the warp, and in which turn.
unsigned offer(float value) {
  const unsigned turn = fibres[current].turn++ % 2;
  fibres[current].offered[turn] = value;
  wait_for(State::kShuffle);
  return turn;
}

}  // namespace

float exchange(float value, int lane_mask) {
  const unsigned self = current, turn = offer(value);
  return fibres[self ^ static_cast<unsigned>(lane_mask)].offered[turn];
}

unsigned ballot(bool vote) {
  const unsigned first = current / kWarp * kWarp, turn = offer(vote ? 1.0f : 0.0f);
  unsigned votes = 0;
  for (unsigned i = 0; i < kWarp; ++i) votes |= (fibres[first + i].offered[turn] != 0.0f ? 1u : 0u) << i;
  return votes;
}

bool any_of_block(bool vote) {
  const unsigned turn = fibres[current].block_turn++ % 2;
  fibres[current].votes[turn] = vote;
  wait_for(State::kBarrier);
  bool any = false;
  for (unsigned i = 0; i < block_threads; ++i) any = any || fibres[i].votes[turn];
  return any;
}

}  // namespace emulation

// The driver's interface, as in cuda.h. Context, module and stream are not told apart.
extern "C" {

enum { kSuccess = 0, kInvalidValue = 1, kNotFound = 500, kLaunchFailed = 719 };

int emulation_descending = 0;   // order of the threads in a block
int emulation_context = 0;      // contexts pushed and not yet popped
const void* emulation_image = nullptr;  // what the module was loaded from

void emulation_set_exponential_error(float error) { emulation::exponential_error = error; }

int cuInit(unsigned flags) { return flags ? kInvalidValue : kSuccess; }

int cuGetErrorString(int, const char** text) {
  *text = "as the emulation says";
  return kSuccess;
}

int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return ordinal ? kInvalidValue : kSuccess;
}

int cuDeviceGetAttribute(int* value, int attribute, int) {
  enum { kProcessors = 16, kMajor = 75, kMinor = 76 };
  *value = attribute == kProcessors ? 16 : attribute == kMajor ? 8 : attribute == kMinor ? 7 : -1;
  return *value < 0 ? kInvalidValue : kSuccess;
}

int cuDevicePrimaryCtxRetain(void** context, int) {
  *context = &emulation_context;
  return kSuccess;
}

int cuCtxPushCurrent_v2(void* context) {
  if (context != &emulation_context) return kInvalidValue;
  ++emulation_context;
  return kSuccess;
}

int cuCtxPopCurrent_v2(void** context) {
  *context = &emulation_context;
  return emulation_context-- > 0 ? kSuccess : kInvalidValue;
}

int cuModuleLoadData(void** module, const void* image) {
  if (!emulation_context || !image) return kInvalidValue;
  emulation_image = image;
  *module = &emulation_image;
  return kSuccess;
}

int cuModuleGetFunction(void** function, void* module, const char* name) {
  if (module != &emulation_image) return kInvalidValue;
  for (const emulation::Kernel& kernel : emulation::kKernels) {
    if (std::strcmp(kernel.name, name) == 0) {
      *function = const_cast<emulation::Kernel*>(&kernel);
      return kSuccess;
    }
  }
  return kNotFound;
}

int cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned threads,
                   unsigned block_y, unsigned block_z, unsigned shared_bytes, void*, void** parameters, void** extra) {
  const bool sized = grid_x && grid_y && grid_z && grid_y < 65536 && grid_z < 65536 && threads && threads <= 1024;
  if (!emulation_context || !sized || block_y != 1 || block_z != 1 || shared_bytes || extra) return kInvalidValue;
  emulation::kernel = static_cast<const emulation::Kernel*>(function)->run;
  emulation::kernel_arguments = parameters;
  emulation::grid = {grid_x, grid_y, grid_z};
  const emulation::FlushDenormals mode;
  for (unsigned z = 0; z < grid_z; ++z) {
    for (unsigned y = 0; y < grid_y; ++y) {
      for (unsigned x = 0; x < grid_x; ++x) {
        emulation::block = {x, y, z};
        if (!emulation::run_block(threads, emulation_descending != 0)) return kLaunchFailed;
      }
    }
  }
  return kSuccess;
}

}  // extern "C"
