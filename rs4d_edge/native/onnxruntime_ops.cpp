// ONNX Runtime custom op library: domain "rs4d", op "SelectiveScan" (u, delta, a, b, c, d; attribute reverse) -> y.
//
// Built with ONNX Runtime's public headers and RS4D_ONNXRUNTIME, linked to nothing of it: the runtime hands its
// interface over when it loads the library. Work runs on the session's own threads (KernelContext_ParallelFor), so its
// thread count holds and no second pool competes with it.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "onnxruntime_pool.h"
#include "scan.h"

namespace {

// What the kernels use of the C interface exists since 1.17; asking for that version lets the library, built with newer
// headers, load into older runtimes too.
constexpr uint32_t kApiVersion = 17;
constexpr const char* kInputs[] = {"u", "delta", "a", "b", "c", "d"};

// The context of the Compute call that this thread is in, for session_parallel_for.
thread_local OrtKernelContext* current_context = nullptr;

struct ContextScope {
  explicit ContextScope(OrtKernelContext* context) { current_context = context; }
  ~ContextScope() { current_context = nullptr; }
};

using Shape = std::vector<int64_t>;

std::string text(const Shape& shape) {
  std::string out = "(";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + ")";
}

OrtStatusPtr failure(const std::string& message) {
  return Ort::GetApi().CreateStatus(ORT_INVALID_ARGUMENT, ("rs4d::SelectiveScan: " + message).c_str());
}

struct Kernel {
  explicit Kernel(const OrtKernelInfo* info) {
    int64_t value = 0;
    // An absent attribute is the forward scan.
    if (OrtStatus* status = Ort::GetApi().KernelInfoGetAttribute_int64(info, "reverse", &value)) {
      Ort::GetApi().ReleaseStatus(status);
    }
    reverse = value != 0;
  }

  OrtStatusPtr ComputeV2(OrtKernelContext* raw) const {
    try {
      return compute(raw);
    } catch (const Ort::Exception& error) {
      return failure(error.what());
    }
  }

  OrtStatusPtr compute(OrtKernelContext* raw) const {
    Ort::KernelContext context(raw);
    std::array<const float*, 6> data{};
    std::array<Shape, 6> shapes;
    for (size_t i = 0; i < data.size(); ++i) {
      const Ort::ConstValue value = context.GetInput(i);
      data[i] = value.GetTensorData<float>();
      shapes[i] = value.GetTensorTypeAndShapeInfo().GetShape();
    }
    if (shapes[0].size() != 3 || shapes[2].size() != 2) return failure("u " + text(shapes[0]) + ", a " + text(shapes[2]));
    const int64_t batch = shapes[0][0], length = shapes[0][1], channels = shapes[0][2], states = shapes[2][1];
    const std::array<Shape, 6> wanted{Shape{batch, length, channels}, Shape{batch, length, channels},
                                      Shape{channels, states},       Shape{batch, length, states},
                                      Shape{batch, length, states},  Shape{channels}};
    for (size_t i = 0; i < wanted.size(); ++i) {
      if (shapes[i] == wanted[i]) continue;
      return failure(std::string(kInputs[i]) + " is " + text(shapes[i]) + ", expected " + text(wanted[i]));
    }
    float* y = context.GetOutput(0, shapes[0]).GetTensorMutableData<float>();
    const rs4d_scan_inputs inputs{data[0], data[1], data[2],  data[3],  data[4], data[5],
                                  batch,   length,  channels, states,   reverse, 0};
    const ContextScope scope(raw);
    const int code = rs4d_scan_forward(&inputs, y);
    return code == RS4D_OK ? nullptr : failure("scan.h error " + std::to_string(code));
  }

  int32_t reverse = 0;
};

struct SelectiveScan : Ort::CustomOpBase<SelectiveScan, Kernel, true> {
  SelectiveScan() { version = kApiVersion; }
  const char* GetName() const { return "SelectiveScan"; }
  size_t GetInputTypeCount() const { return 6; }
  ONNXTensorElementDataType GetInputType(size_t) const { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; }
  size_t GetOutputTypeCount() const { return 1; }
  ONNXTensorElementDataType GetOutputType(size_t) const { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; }

  OrtStatusPtr CreateKernelV2(const OrtApi&, const OrtKernelInfo* info, void** kernel) const {
    *kernel = new Kernel(info);
    return nullptr;
  }

  static OrtStatusPtr InferOutputShape(Ort::ShapeInferContext& context) {
    context.SetOutputShape(0, context.GetInputShape(0));
    return nullptr;
  }
};

}  // namespace

namespace rs4d {

void session_parallel_for(int workers, void (*work)(void* data, size_t worker), void* data) {
  Ort::KernelContext(current_context).ParallelFor(work, static_cast<size_t>(workers), 0, data);
}

}  // namespace rs4d

extern "C" RS4D_EXPORT OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(kApiVersion);
  if (api == nullptr) return base->GetApi(1)->CreateStatus(ORT_FAIL, "rs4d needs ONNX Runtime 1.17 or newer");
  Ort::InitApi(api);
  try {
    static const SelectiveScan op;
    static const Ort::CustomOpDomain domain = [] {
      Ort::CustomOpDomain made("rs4d");
      made.Add(&op);
      return made;
    }();
    return api->AddCustomOpDomain(options, domain);
  } catch (const Ort::Exception& error) {
    return api->CreateStatus(ORT_FAIL, error.what());
  }
}
