// Does with the plugins what an engine does with them, and takes its arguments from ctypes. Shapes are rows of
// nine numbers: the rank, then eight sizes, -1 where one is not known.
#include <NvInferRuntime.h>

#include <cstring>
#include <deque>
#include <stdexcept>
#include <string>
#include <vector>

#include "tensorrt_plan.hpp"

using namespace nvinfer1;

extern "C" IPluginCreatorInterface* const* getCreators(int32_t& nbCreators);
extern "C" void setLoggerFinder(ILoggerFinder* finder);

namespace {

constexpr int kRow = 1 + Dims::MAX_DIMS;

class Log : public ILogger, public ILoggerFinder {
 public:
  void log(Severity severity, const AsciiChar* message) noexcept override {
    text = severity == Severity::kERROR ? message : "not logged as an error";
  }
  ILogger* findLogger() override {
    if (broken) throw std::runtime_error("no logger today");
    return this;
  }
  std::string text;
  bool broken = false;
} engine_log;

// The engine's dimensions: a constant, or -1.
class Expression : public IDimensionExpr {
  struct Value : apiv::VDimensionExpr {
    int64_t value = 0;
    bool isConstant() const override { return value >= 0; }
    int64_t getConstantValue() const override { return value; }
    bool isSizeTensor() const override { return false; }
  } value_;

 public:
  explicit Expression(int64_t value) { value_.value = value, mImpl = &value_; }
};

class Builder : public IExprBuilder {
  struct Work : apiv::VExprBuilder {
    std::deque<Expression> made;
    const IDimensionExpr* constant(int64_t value) override { return &made.emplace_back(value); }
    const IDimensionExpr* operation(DimensionOperation op, const IDimensionExpr& a, const IDimensionExpr& b) override {
      const bool known = op == DimensionOperation::kPROD && a.isConstant() && b.isConstant();
      return constant(known ? a.getConstantValue() * b.getConstantValue() : -1);
    }
    const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&, const IDimensionExpr&) override {
      return nullptr;
    }
  } work_;

 public:
  Builder() { mImpl = &work_; }
};

IPluginCreatorV3One* creator(int32_t index) {
  int32_t count = 0;
  IPluginCreatorInterface* const* all = getCreators(count);
  return index < count ? static_cast<IPluginCreatorV3One*>(all[index]) : nullptr;
}

// A plugin by its operator's name, with the capabilities that an engine asks it for.
class Plugin {
 public:
  explicit Plugin(const char* name) {
    setLoggerFinder(&engine_log);
    engine_log.text.clear();
    for (int32_t i = 0; IPluginCreatorV3One* each = creator(i); ++i) {
      if (std::strcmp(each->getPluginName(), name) != 0) continue;
      made_ = each->createPlugin("node", &none_, TensorRTPhase::kBUILD);
    }
    copy_ = made_->clone();
  }
  ~Plugin() { delete made_, delete copy_; }
  IPluginV3OneBuild& build() {
    return *static_cast<IPluginV3OneBuild*>(copy_->getCapabilityInterface(PluginCapabilityType::kBUILD));
  }
  IPluginV3OneRuntime& runtime() {
    return *static_cast<IPluginV3OneRuntime*>(copy_->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  }

 private:
  IPluginV3 *made_ = nullptr, *copy_ = nullptr;
  PluginFieldCollection none_{};
};

Dims dims_of(const int64_t* row) {
  Dims dims{};
  dims.nbDims = static_cast<int32_t>(row[0]);
  for (int32_t i = 0; i < Dims::MAX_DIMS; ++i) dims.d[i] = row[1 + i];
  return dims;
}

std::vector<DynamicPluginTensorDesc> describe(int32_t count, const int64_t* shapes, const int32_t* types) {
  std::vector<DynamicPluginTensorDesc> tensors(static_cast<size_t>(count));
  for (int32_t i = 0; i < count; ++i) {
    DynamicPluginTensorDesc& each = tensors[static_cast<size_t>(i)];
    each.desc = {dims_of(shapes + i * kRow), static_cast<DataType>(types[i]), TensorFormat::kLINEAR, 1.0f};
    each.min = each.max = each.opt = each.desc.dims;
  }
  return tensors;
}

}  // namespace

extern "C" {

const char* harness_name(int32_t index) { return creator(index) ? creator(index)->getPluginName() : nullptr; }

const char* harness_identity(int32_t index) {
  static std::string text;
  text = std::string(creator(index)->getPluginNamespace()) + " " + creator(index)->getPluginVersion();
  return text.c_str();
}

const char* harness_logged() { return engine_log.text.c_str(); }

void harness_break_logger(int32_t broken) { engine_log.broken = broken != 0; }

int32_t harness_plan(const int64_t* shape, int64_t directions, int64_t multiprocessors, int64_t* plan) {
  rs4d::tensorrt::ScanPlan found;
  const rs4d::tensorrt::MixerShape given{shape[0], shape[1], shape[2], shape[3]};
  if (!rs4d::tensorrt::plan_scan(given, directions, multiprocessors, found)) return 1;
  plan[0] = found.segment_tokens, plan[1] = found.segments;
  plan[2] = found.padded_states, plan[3] = found.carry_floats;
  return 0;
}

// All tensors, the output last. Both answers go to `out`: its shape, and its type behind that.
int32_t harness_infer(const char* name, int32_t count, const int64_t* shapes, const int32_t* types, int64_t* out) {
  Plugin plugin(name);
  std::deque<Expression> expressions;
  std::vector<DimsExprs> inputs(static_cast<size_t>(count));
  for (size_t i = 0; i < inputs.size(); ++i) {
    inputs[i].nbDims = static_cast<int32_t>(shapes[i * kRow]);
    for (int32_t j = 0; j < inputs[i].nbDims; ++j) {
      inputs[i].d[j] = &expressions.emplace_back(shapes[i * kRow + 1 + static_cast<size_t>(j)]);
    }
  }
  Builder builder;
  DimsExprs output{};
  if (plugin.build().getOutputShapes(inputs.data(), count, nullptr, 0, &output, 1, builder)) return 1;
  std::vector<DataType> given(inputs.size());
  for (size_t i = 0; i < given.size(); ++i) given[i] = static_cast<DataType>(types[i]);
  DataType type{};
  if (plugin.build().getOutputDataTypes(&type, 1, given.data(), count)) return 1;
  out[0] = output.nbDims, out[kRow] = static_cast<int64_t>(type);
  for (int32_t j = 0; j < output.nbDims; ++j) {
    out[1 + j] = output.d[j]->isConstant() ? output.d[j]->getConstantValue() : -1;
  }
  return 0;
}

int64_t harness_workspace(const char* name, int32_t count, const int64_t* shapes, const int32_t* types) {
  Plugin plugin(name);
  const auto tensors = describe(count + 1, shapes, types);
  return static_cast<int64_t>(plugin.build().getWorkspaceSize(tensors.data(), count, tensors.data() + count, 1));
}

// Whether the tensor at `position` may be of its type and `format` beside those before it.
int32_t harness_takes(const char* name, int32_t position, int32_t count, const int32_t* types, int32_t format) {
  Plugin plugin(name);
  const std::vector<int64_t> shapes(static_cast<size_t>((count + 1) * kRow));
  auto tensors = describe(count + 1, shapes.data(), types);
  tensors[static_cast<size_t>(position)].desc.format = static_cast<TensorFormat>(format);
  return plugin.build().supportsFormatCombination(position, tensors.data(), count, 1);
}

int32_t harness_enqueue(const char* name, int32_t count, const int64_t* shapes, const int32_t* types,
                        void* const* data, void* workspace) {
  Plugin plugin(name);
  IPluginV3* const attached = plugin.runtime().attachToContext(nullptr);
  auto& runtime = *static_cast<IPluginV3OneRuntime*>(attached->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  std::vector<PluginTensorDesc> tensors;
  for (const DynamicPluginTensorDesc& each : describe(count + 1, shapes, types)) tensors.push_back(each.desc);
  const int32_t status =
      runtime.onShapeChange(tensors.data(), count, tensors.data() + count, 1) ||
      runtime.enqueue(tensors.data(), tensors.data() + count, data, data + count, workspace, nullptr);
  delete attached;
  return status;
}

}  // extern "C"
