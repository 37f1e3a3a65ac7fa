// A parallel loop over independent units of work, on whatever the library was built with: oneTBB (inside OpenVINO) or
// the session's pool (inside ONNX Runtime), so that the engine's thread limit holds; OpenMP (shares PyTorch's threads);
// or threads started for the call.
#pragma once

#include <cstdint>

namespace rs4d {

// Threads that `requested` (<= 0: the machine's default) means here, at most `units`.
int thread_count(int requested, int64_t units);

// Calls body(context, unit, worker) for each unit in [0, units); worker < threads is unique among concurrent calls.
// Flushes denormals to zero inside and restores the floating-point mode.
void parallel_for(int threads, int64_t units, void (*body)(void* context, int64_t unit, int worker), void* context);

}  // namespace rs4d
