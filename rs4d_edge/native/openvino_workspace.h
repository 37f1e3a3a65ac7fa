// Memory for a kernel inside an engine, kept from call to call.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace rs4d {

// A buffer for the lifetime of the object, from those that earlier calls left. Not one for each thread: a thread that
// waits inside the kernel for its helpers may take up another request of its arena and call the kernel again.
class Workspace {
 public:
  explicit Workspace(std::size_t floats) {
    Pool& idle = pool();
    {
      const std::lock_guard<std::mutex> lock(idle.mutex);
      if (!idle.buffers.empty()) held_ = std::move(idle.buffers.back()), idle.buffers.pop_back();
    }
    if (held_.floats < floats) held_ = Buffer(floats);
  }

  ~Workspace() {
    Pool& idle = pool();
    const std::lock_guard<std::mutex> lock(idle.mutex);
    idle.buffers.push_back(std::move(held_));
  }

  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  float* data() const { return held_.data.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};  // a cache line, and a register of AVX-512

  struct Free {
    void operator()(float* data) const { ::operator delete[](data, kAlignment); }
  };

  struct Buffer {
    Buffer() = default;
    explicit Buffer(std::size_t count)
        : data(static_cast<float*>(::operator new[](count * sizeof(float), kAlignment))), floats(count) {}

    std::unique_ptr<float[], Free> data;
    std::size_t floats = 0;
  };

  struct Pool {
    std::mutex mutex;
    std::vector<Buffer> buffers;
  };

  static Pool& pool() {
    static Pool shared;
    return shared;
  }

  Buffer held_;
};

}  // namespace rs4d
