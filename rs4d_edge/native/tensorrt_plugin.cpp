// The operators of tensorrt_operators.hpp as TensorRT plugins, for C++ programs: IPluginRegistry::loadLibrary finds the
// two functions at the end. One source for TensorRT 10 and 11 and for TensorRT-RTX; nothing of them is linked.
// runtimes/tensorrt_plugins.py has the same plugins for Python.
#include <new>

#include "tensorrt_operators.hpp"
#include "tensorrt_report.hpp"

#if defined(_WIN32)
#define RS4D_EXPORT extern "C" __declspec(dllexport)
#else
#define RS4D_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace rs4d::tensorrt {
namespace {

using namespace nvinfer1;

bool element_of(DataType type, Element& element) {
  if (type != DataType::kFLOAT && type != DataType::kHALF && type != DataType::kBF16) return false;
  element = type == DataType::kFLOAT ? Element::kFloat : type == DataType::kHALF ? Element::kHalf : Element::kBFloat;
  return true;
}

// Sizes that are known at build time only.
Dims known_sizes(const DimsExprs& given) {
  Dims dims{};
  dims.nbDims = given.nbDims;
  for (int32_t i = 0; i < given.nbDims; ++i) {
    dims.d[i] = given.d[i]->isConstant() ? given.d[i]->getConstantValue() : kUnknown;
  }
  return dims;
}

// The inputs' sizes, or false after a message.
bool read_inputs(const Operator& op, const Dims* given, Sizes& sizes) {
  for (int32_t i = 0; i < op.inputs; ++i) {
    if (!read_sizes(op.tensors[i], given[i], sizes)) return fail(op, "its inputs do not fit each other", given), false;
  }
  return true;
}

// An output's size as an input has it, or as a multiple of one that an input has.
const IDimensionExpr* size_of(const Operator& op, Axis wanted, const DimsExprs* inputs, IExprBuilder& builder) {
  const IDimensionExpr* single = nullptr;
  for (int32_t i = 0; i < op.inputs; ++i) {
    for (int32_t j = 0; j < op.tensors[i].rank; ++j) {
      const Axis axis = op.tensors[i].axes[j];
      if (axis.symbol != wanted.symbol) continue;
      if (axis.times == wanted.times) return inputs[i].d[j];
      if (axis.times == 1) single = inputs[i].d[j];
    }
  }
  const IDimensionExpr* const times = builder.constant(wanted.times);
  return single && times ? builder.operation(DimensionOperation::kPROD, *single, *times) : nullptr;
}

class OperatorPlugin final : public IPluginV3,
                          public IPluginV3OneCore,
                          public IPluginV3OneBuild,
                          public IPluginV3OneRuntime {
 public:
  explicit OperatorPlugin(const Operator& op) : op_(op) {}

  IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override {
    if (type == PluginCapabilityType::kCORE) return static_cast<IPluginV3OneCore*>(this);
    if (type == PluginCapabilityType::kBUILD) return static_cast<IPluginV3OneBuild*>(this);
    return type == PluginCapabilityType::kRUNTIME ? static_cast<IPluginV3OneRuntime*>(this) : nullptr;
  }
  IPluginV3* clone() noexcept override { return new (std::nothrow) OperatorPlugin(op_); }

  const AsciiChar* getPluginName() const noexcept override { return op_.name; }
  const AsciiChar* getPluginVersion() const noexcept override { return kVersion; }
  const AsciiChar* getPluginNamespace() const noexcept override { return kNamespace; }

  int32_t getNbOutputs() const noexcept override { return 1; }
  int32_t configurePlugin(const DynamicPluginTensorDesc*, int32_t, const DynamicPluginTensorDesc*,
                          int32_t) noexcept override {
    return kOk;
  }

  int32_t getOutputDataTypes(DataType* output_types, int32_t outputs, const DataType* input_types,
                             int32_t inputs) const noexcept override {
    if (inputs != op_.inputs || outputs != 1) return fail(op_, "it has another number of inputs or outputs");
    output_types[0] = op_.type_of(inputs, input_types[0]);
    return kOk;
  }

  int32_t getOutputShapes(const DimsExprs* inputs, int32_t input_count, const DimsExprs*, int32_t, DimsExprs* outputs,
                          int32_t output_count, IExprBuilder& builder) noexcept override {
    if (input_count != op_.inputs || output_count != 1) {
      return fail(op_, "it has another number of inputs or outputs");
    }
    Dims known[kMostInputs];
    for (int32_t i = 0; i < op_.inputs; ++i) known[i] = known_sizes(inputs[i]);
    Sizes sizes = unknown_sizes();
    if (!read_inputs(op_, known, sizes)) return kFailed;
    const Tensor& output = op_.output();
    outputs[0].nbDims = output.rank;
    for (int32_t i = 0; i < output.rank; ++i) {
      outputs[0].d[i] = size_of(op_, output.axes[i], inputs, builder);
      if (!outputs[0].d[i]) return fail(op_, "the output's shape cannot be expressed", known);
    }
    return kOk;
  }

  bool supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors, int32_t,
                                 int32_t) noexcept override {
    const PluginTensorDesc& tensor = tensors[position].desc;
    const DataType first = tensors[0].desc.type;
    Element element;
    return tensor.format == TensorFormat::kLINEAR && tensor.type == op_.type_of(position, first) &&
           (position > 0 || element_of(first, element));
  }

  size_t getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t, const DynamicPluginTensorDesc*,
                          int32_t) const noexcept override {
    Sizes sizes = unknown_sizes();
    for (int32_t i = 0; i < op_.inputs; ++i) {
      if (!read_sizes(op_.tensors[i], inputs[i].max, sizes)) return 0;
    }
    return static_cast<size_t>(op_.workspace_bytes(sizes));
  }

  int32_t onShapeChange(const PluginTensorDesc*, int32_t, const PluginTensorDesc*, int32_t) noexcept override {
    return kOk;
  }
  IPluginV3* attachToContext(IPluginResourceContext*) noexcept override { return clone(); }
  const PluginFieldCollection* getFieldsToSerialize() noexcept override { return &fields_; }

  int32_t enqueue(const PluginTensorDesc* inputs, const PluginTensorDesc* output, void const* const* input_data,
                  void* const* output_data, void* workspace, cudaStream_t stream) noexcept override {
    Dims given[kMostInputs];
    Call call{Element::kFloat, unknown_sizes(), input_data, output_data[0], workspace, stream};
    if (!element_of(inputs[0].type, call.element)) return fail(op_, "it is compiled for fp32, fp16 and bf16");
    for (int32_t i = 0; i < op_.inputs; ++i) {
      given[i] = inputs[i].dims;
      if (inputs[i].type != op_.type_of(i, inputs[0].type)) return fail(op_, "an input is of another type");
    }
    if (!read_inputs(op_, given, call.sizes)) return kFailed;
    if (output[0].type != op_.type_of(op_.inputs, inputs[0].type)) return fail(op_, "the output is of another type");
    if (!read_sizes(op_.output(), output[0].dims, call.sizes)) return fail(op_, "the output has another shape", given);
    const char* const reason = op_.launch(call);
    return reason ? fail(op_, reason, given) : kOk;
  }

 private:
  const Operator& op_;
  const PluginFieldCollection fields_{};
};

class OperatorCreator final : public IPluginCreatorV3One {
 public:
  explicit OperatorCreator(const Operator& op) : op_(op) {}

  IPluginV3* createPlugin(const AsciiChar*, const PluginFieldCollection*, TensorRTPhase) noexcept override {
    return new (std::nothrow) OperatorPlugin(op_);
  }
  const PluginFieldCollection* getFieldNames() noexcept override { return &fields_; }
  const AsciiChar* getPluginName() const noexcept override { return op_.name; }
  const AsciiChar* getPluginVersion() const noexcept override { return kVersion; }
  const AsciiChar* getPluginNamespace() const noexcept override { return kNamespace; }

 private:
  const Operator& op_;
  const PluginFieldCollection fields_{};
};

OperatorCreator creators[] = {OperatorCreator(kOperators[0]), OperatorCreator(kOperators[1]),
                              OperatorCreator(kOperators[2]), OperatorCreator(kOperators[3]),
                              OperatorCreator(kOperators[4])};
IPluginCreatorInterface* const exported[] = {&creators[0], &creators[1], &creators[2], &creators[3], &creators[4]};
static_assert(sizeof exported / sizeof exported[0] == sizeof kOperators / sizeof kOperators[0]);

}  // namespace
}  // namespace rs4d::tensorrt

RS4D_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& nbCreators) {
  nbCreators = static_cast<int32_t>(sizeof rs4d::tensorrt::exported / sizeof rs4d::tensorrt::exported[0]);
  return rs4d::tensorrt::exported;
}

RS4D_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { rs4d::tensorrt::logger_finder.store(finder); }
