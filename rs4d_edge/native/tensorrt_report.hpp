// Errors of the plugins go to the engine's own log, or to stderr where the engine lends none.
#ifndef RS4D_NATIVE_TENSORRT_REPORT_HPP
#define RS4D_NATIVE_TENSORRT_REPORT_HPP

#include <atomic>
#include <cinttypes>
#include <cstdarg>
#include <cstdio>

#include "tensorrt_operator.hpp"

namespace rs4d::tensorrt {

constexpr char kNamespace[] = "rs4d", kVersion[] = "1";
constexpr int32_t kOk = 0, kFailed = 1;

inline std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

// A text of fixed size, because an error must not need memory: what does not fit is dropped.
class Message {
 public:
  void add(const char* format, ...) {
    std::va_list values;
    va_start(values, format);
    const int written = std::vsnprintf(text_ + used_, sizeof text_ - used_, format, values);
    va_end(values);
    if (written > 0) used_ += static_cast<size_t>(written);
    if (used_ >= sizeof text_) used_ = sizeof text_ - 1;
  }
  const char* text() const { return text_; }

 private:
  char text_[1024] = "";
  size_t used_ = 0;
};

// What is wrong with a node, and the shapes of its inputs if they say more. The logger's finder may throw.
inline int32_t fail(const Operator& op, const char* reason, const nvinfer1::Dims* given = nullptr) noexcept {
  try {
    Message message;
    message.add("%s::%s: %s; it takes %s", kNamespace, op.name, reason, op.signature);
    for (int32_t i = 0; given && i < op.inputs; ++i) {
      message.add("%s(", i ? ", " : "; came: ");
      for (int32_t j = 0; j < given[i].nbDims; ++j) message.add("%s%" PRId64, j ? ", " : "", given[i].d[j]);
      message.add(")");
    }
    nvinfer1::ILoggerFinder* const finder = logger_finder.load();
    nvinfer1::ILogger* const logger = finder ? finder->findLogger() : nullptr;
    if (logger) {
      logger->log(nvinfer1::ILogger::Severity::kERROR, message.text());
    } else {
      std::fprintf(stderr, "%s\n", message.text());
    }
  } catch (...) {
  }
  return kFailed;
}

}  // namespace rs4d::tensorrt

#endif
