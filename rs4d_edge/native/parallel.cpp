#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#if defined(RS4D_TBB)
#include <tbb/task_arena.h>
#include <tbb/parallel_for.h>
#elif defined(RS4D_ONNXRUNTIME)
#include "onnxruntime_pool.h"
#elif defined(_OPENMP)
#include <omp.h>
#endif

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace rs4d {
namespace {

// Denormal operands cost about a hundred cycles each and mean nothing here: a state that has decayed to 1e-38 is zero.
class FlushDenormals {
 public:
#if defined(__SSE2__)
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  FlushDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" ::"r"(saved_ | (uint64_t{1} << 24)));
  }
  ~FlushDenormals() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }

 private:
  uint64_t saved_;
#endif
};

struct Loop {
  std::atomic<int64_t> next{0};
  int64_t units;
  void (*body)(void*, int64_t, int);
  void* context;

  void work(int worker) {
    const FlushDenormals flush;
    for (int64_t unit = next.fetch_add(1); unit < units; unit = next.fetch_add(1)) body(context, unit, worker);
  }
};

}  // namespace

int thread_count(int requested, int64_t units) {
  int threads = requested;
#if defined(RS4D_TBB)
  const int arena = tbb::this_task_arena::max_concurrency();
  threads = threads <= 0 ? arena : std::min(threads, arena);
#elif defined(_OPENMP)
  if (threads <= 0) threads = omp_get_max_threads();
#else
  if (threads <= 0) threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
#endif
  return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, units)));
}

void parallel_for(int threads, int64_t units, void (*body)(void*, int64_t, int), void* context) {
  Loop loop;
  loop.units = units, loop.body = body, loop.context = context;
  threads = thread_count(threads, units);
  if (threads == 1) return loop.work(0);
#if defined(RS4D_TBB)
  tbb::parallel_for(0, threads, [&loop](int worker) { loop.work(worker); }, tbb::static_partitioner());
#elif defined(RS4D_ONNXRUNTIME)
  session_parallel_for(
      threads, [](void* data, size_t worker) { static_cast<Loop*>(data)->work(static_cast<int>(worker)); }, &loop);
#elif defined(_OPENMP)
#pragma omp parallel num_threads(threads)
  loop.work(omp_get_thread_num());
#else
  std::vector<std::thread> helpers;
  for (int worker = 1; worker < threads; ++worker) helpers.emplace_back([&loop, worker] { loop.work(worker); });
  loop.work(0);
  for (std::thread& helper : helpers) helper.join();
#endif
}

}  // namespace rs4d
