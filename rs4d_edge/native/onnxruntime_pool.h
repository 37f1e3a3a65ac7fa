// The thread pool of the ONNX Runtime session that is calling us, for parallel.cpp.
#pragma once

#include <cstddef>

namespace rs4d {

// Calls work(data, worker) once for each worker in [0, workers), on the session's threads, and returns when all have.
void session_parallel_for(int workers, void (*work)(void* data, size_t worker), void* data);

}  // namespace rs4d
