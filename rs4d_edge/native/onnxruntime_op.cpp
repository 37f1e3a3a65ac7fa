#include "onnxruntime_op.h"

#include <exception>
#include <memory>
#include <new>

namespace rs4d::ort {

const Api* api = nullptr;

namespace {

const Operator& ours(const CustomOp* op) { return *static_cast<const Operator*>(op); }

struct ReleaseInfo {
  void operator()(Info* info) const { api->ReleaseTensorTypeAndShapeInfo(info); }
};
using OwnedInfo = std::unique_ptr<Info, ReleaseInfo>;

OrtStatus* read_shape(const Info* info, Shape& shape) {
  if (OrtStatus* error = api->GetDimensionsCount(info, &shape.axes)) return error;
  if (shape.axes > kMaxAxes) return api->CreateStatus(kInvalidArgument, "rs4d: a tensor has more than 8 axes");
  return api->GetDimensions(info, shape.sizes.data(), shape.axes);
}

OrtStatus* RS4D_ORT_CALL create(const CustomOp* op, const Api*, const OrtKernelInfo* info, void** kernel) {
  int64_t reverse = 0;
  if (OrtStatus* absent = api->KernelInfoGetAttribute_int64(info, "reverse", &reverse)) api->ReleaseStatus(absent);
  *kernel = new (std::nothrow) Kernel{ours(op), reverse != 0};
  return *kernel ? nullptr : api->CreateStatus(kFail, "rs4d: no memory for a node");
}

// Nothing that is thrown may reach the runtime, which is C at this border.
OrtStatus* RS4D_ORT_CALL compute(void* kernel, OrtKernelContext* context) {
  const Kernel& node = *static_cast<const Kernel*>(kernel);
  try {
    return node.op.compute(node, context);
  } catch (const std::exception& error) {
    return api->CreateStatus(kFail, error.what());
  }
}

// Lets the runtime plan its memory. Unknown sizes leave the output's unknown too, until it is made; an input of unknown
// rank comes as one of rank 0.
OrtStatus* RS4D_ORT_CALL infer(const CustomOp* op, OrtShapeInferContext* context) {
  Info* input = nullptr;
  Shape shape;
  OrtStatus* error = api->ShapeInferContext_GetInputTypeShape(context, 0, &input);
  if (!error) error = read_shape(input, shape);
  if (error) return api->ReleaseStatus(error), nullptr;
  for (size_t axis = 0; axis < shape.axes; ++axis) {
    if (shape.sizes[axis] <= 0) return nullptr;
  }
  if (shape.axes != 3) return nullptr;
  shape.sizes[2] /= ours(op).narrowing;
  Info* raw = nullptr;
  if ((error = api->CreateTensorTypeAndShapeInfo(&raw))) return error;
  const OwnedInfo output(raw);
  const char* names[] = {"", "", ""};
  if ((error = api->SetTensorElementType(raw, kFloat))) return error;
  if ((error = api->SetDimensions(raw, shape.sizes.data(), shape.axes))) return error;
  if ((error = api->SetSymbolicDimensions(raw, names, shape.axes))) return error;
  return api->ShapeInferContext_SetOutputTypeShape(context, 0, raw);
}

void fill(CustomOp& op) {
  op.version = kApiVersion;
  op.CreateKernel = nullptr, op.CreateKernelV2 = create;
  op.KernelCompute = nullptr, op.KernelComputeV2 = compute;
  op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  op.GetName = [](const CustomOp* self) { return ours(self).name; };
  op.GetExecutionProviderType = [](const CustomOp*) -> const char* { return nullptr; };
  op.GetInputTypeCount = [](const CustomOp* self) { return ours(self).input_count; };
  op.GetInputType = op.GetOutputType = [](const CustomOp*, size_t) { return kFloat; };
  op.GetOutputTypeCount = [](const CustomOp*) -> size_t { return 1; };
  op.GetInputCharacteristic = op.GetOutputCharacteristic = [](const CustomOp*, size_t) { return kRequired; };
  op.GetInputMemoryType = [](const CustomOp*, size_t) { return kDefaultMemory; };
  op.GetVariadicInputMinArity = op.GetVariadicInputHomogeneity = [](const CustomOp*) { return 0; };
  op.GetVariadicOutputMinArity = op.GetVariadicOutputHomogeneity = [](const CustomOp*) { return 0; };
  op.InferOutputShapeFn = infer;
  op.GetStartVersion = [](const CustomOp*) { return 1; };
  op.GetEndVersion = [](const CustomOp*) { return 1; };
}

}  // namespace

Operator::Operator(const char* operator_name, const std::array<const char*, kMaxInputs>& input_names,
                   int64_t output_narrowing, Compute function)
    : CustomOp{}, name(operator_name), inputs(input_names), input_count(0), narrowing(output_narrowing),
      compute(function) {
  while (input_count < kMaxInputs && inputs[input_count]) ++input_count;
  fill(*this);
}

OrtStatus* Operator::failure(const std::string& message) const {
  return api->CreateStatus(kInvalidArgument, ("rs4d::" + std::string(name) + ": " + message).c_str());
}

OrtStatus* Operator::read(OrtKernelContext* context, Tensors& tensors) const {
  for (size_t i = 0; i < input_count; ++i) {
    const OrtValue* value = nullptr;
    if (OrtStatus* error = api->KernelContext_GetInput(context, i, &value)) return error;
    Info* raw = nullptr;
    if (OrtStatus* error = api->GetTensorTypeAndShape(value, &raw)) return error;
    const OwnedInfo info(raw);
    if (OrtStatus* error = read_shape(raw, tensors[i].shape)) return error;
    void* data = nullptr;  // the interface has no other way to an input's data; nothing is written there
    if (OrtStatus* error = api->GetTensorMutableData(const_cast<OrtValue*>(value), &data)) return error;
    tensors[i].data = static_cast<const float*>(data);
  }
  return nullptr;
}

OrtStatus* Operator::check(const Tensors& tensors, const Shapes& wanted) const {
  for (size_t i = 0; i < input_count; ++i) {
    if (tensors[i].shape == wanted[i]) continue;
    return failure(std::string(inputs[i]) + " is " + text(tensors[i].shape) + ", expected " + text(wanted[i]));
  }
  return nullptr;
}

std::string text(const Shape& shape) {
  std::string out = "(";
  for (size_t axis = 0; axis < shape.axes; ++axis) out += (axis ? ", " : "") + std::to_string(shape.sizes[axis]);
  return out + ")";
}

OrtStatus* make_output(OrtKernelContext* context, const Shape& shape, float** data) {
  OrtValue* value = nullptr;
  if (OrtStatus* error = api->KernelContext_GetOutput(context, 0, shape.sizes.data(), shape.axes, &value)) return error;
  void* address = nullptr;
  OrtStatus* error = api->GetTensorMutableData(value, &address);
  *data = static_cast<float*>(address);
  return error;
}

}  // namespace rs4d::ort
