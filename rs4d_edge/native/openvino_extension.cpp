// The scan and the mixer's core as OpenVINO operations, computed by the kernels beside them on OpenVINO's own threads
// (built with RS4D_TBB). Built against the headers and libraries of the installed openvino wheel, for exactly that
// version. Shapes as in scan.h. fp32: the CPU plugin converts around them when the model runs in bf16.
#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>
#include <openvino/frontend/onnx/extension/conversion.hpp>
#include <openvino/op/op.hpp>

#include "openvino_workspace.h"
#include "scan.h"

namespace rs4d {
namespace {

void check_inputs(const ov::Node* node, size_t count, const char* names) {
  NODE_VALIDATION_CHECK(node, node->get_input_size() == count, node->get_type_name(), " takes ", names, "; got ",
                        node->get_input_size(), " inputs");
  for (size_t i = 0; i < count; ++i) {
    const ov::element::Type type = node->get_input_element_type(i);
    NODE_VALIDATION_CHECK(node, type == ov::element::f32 || type.is_dynamic(), node->get_type_name(),
                          " computes in f32; input ", i, " is ", type);
  }
}

// Inputs u, delta, a, b, c, d; attribute reverse (0 or 1); output y.
class SelectiveScan : public ov::op::Op {
 public:
  // Python operations belong to the set "extension"; with the same name and set, one IR file serves both.
  OPENVINO_OP("SelectiveScan", "extension");

  SelectiveScan() = default;
  SelectiveScan(const ov::OutputVector& inputs, int64_t reverse) : Op(inputs), reverse_(reverse) {
    constructor_validate_and_infer_types();
  }

  void validate_and_infer_types() override {
    check_inputs(this, 6, "u, delta, a, b, c, d");
    ov::PartialShape tokens = get_input_partial_shape(0);
    NODE_VALIDATION_CHECK(this, ov::PartialShape::merge_into(tokens, get_input_partial_shape(1)) &&
                                    tokens.rank().compatible(3),
                          "u ", get_input_partial_shape(0), " and delta ", get_input_partial_shape(1),
                          " must have one shape (batch, tokens, channels)");
    set_output_type(0, ov::element::f32, tokens);
  }

  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
    check_new_args_count(this, inputs);
    return std::make_shared<SelectiveScan>(inputs, reverse_);
  }

  bool visit_attributes(ov::AttributeVisitor& visitor) override {
    visitor.on_attribute("reverse", reverse_);
    return true;
  }

  bool has_evaluate() const override { return true; }

  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
    const ov::Shape &tokens = inputs[0].get_shape(), &decay = inputs[2].get_shape(), &narrow = inputs[3].get_shape();
    OPENVINO_ASSERT(tokens.size() == 3 && inputs[1].get_shape() == tokens && decay.size() == 2 &&
                        decay[0] == tokens[2] && narrow == ov::Shape({tokens[0], tokens[1], decay[1]}) &&
                        inputs[4].get_shape() == narrow && inputs[5].get_size() == tokens[2],
                    "SelectiveScan: u ", tokens, ", delta ", inputs[1].get_shape(), ", a ", decay, ", b ", narrow,
                    ", c ", inputs[4].get_shape(), ", d ", inputs[5].get_shape(), " do not fit together");
    const auto data = [&inputs](size_t i) { return inputs[i].data<const float>(); };
    rs4d_scan_inputs scan{};
    scan.u = data(0), scan.delta = data(1), scan.a = data(2), scan.b = data(3), scan.c = data(4), scan.d = data(5);
    scan.batch = static_cast<int64_t>(tokens[0]), scan.length = static_cast<int64_t>(tokens[1]);
    scan.channels = static_cast<int64_t>(tokens[2]), scan.states = static_cast<int64_t>(decay[1]);
    scan.reverse = reverse_ != 0, scan.threads = 0;  // all threads of the arena that the plugin calls from
    outputs[0].set_shape(tokens);
    const int code = rs4d_scan_forward(&scan, outputs[0].data<float>());
    OPENVINO_ASSERT(code == RS4D_OK, "SelectiveScan: the kernel refuses these shapes (code ", code, ")");
    return true;
  }

 private:
  int64_t reverse_ = 0;
};

constexpr const char* kMixerInputs[] = {"uz", "conv_weight", "conv_bias", "x_proj", "dt_proj", "dt_bias", "a", "d"};

// Why these shapes of a mixer's inputs do not go together, as far as they are known; empty if they do.
std::string mixer_misfit(const std::vector<ov::PartialShape>& given) {
  const auto side = [&given](size_t input, size_t axis) {
    const ov::PartialShape& shape = given[input];
    return shape.rank().is_static() && shape.size() == 2 ? shape[axis] : ov::Dimension::dynamic();
  };
  const ov::Dimension any, channels = side(1, 0), taps = side(1, 1), rank = side(4, 1), states = side(6, 1);
  const std::vector<ov::PartialShape> wanted{
      {any, any, channels * 2}, {channels, taps}, {channels},         {rank + states * 2, channels},
      {channels, rank},         {channels},       {channels, states}, {channels}};
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (given[i].compatible(wanted[i])) continue;
    return std::string(kMixerInputs[i]) + " is " + given[i].to_string() + ", expected " + wanted[i].to_string();
  }
  return {};
}

// Everything of a mixer between in_proj and out_proj. Inputs as kMixerInputs, weights mostly constants; output y.
class MixerCore : public ov::op::Op {
 public:
  OPENVINO_OP("MixerCore", "extension");

  MixerCore() = default;
  explicit MixerCore(const ov::OutputVector& inputs) : Op(inputs) { constructor_validate_and_infer_types(); }

  void validate_and_infer_types() override {
    check_inputs(this, std::size(kMixerInputs), "uz, conv_weight, conv_bias, x_proj, dt_proj, dt_bias, a, d");
    std::vector<ov::PartialShape> shapes;
    for (const ov::Output<ov::Node>& input : input_values()) shapes.push_back(input.get_partial_shape());
    const std::string misfit = mixer_misfit(shapes);
    NODE_VALIDATION_CHECK(this, misfit.empty(), "MixerCore: ", misfit);
    const ov::PartialShape& uz = shapes[0];
    const bool ranked = uz.rank().is_static();
    const ov::Dimension any, channels = shapes[1].rank().is_static() ? shapes[1][0] : any;
    set_output_type(0, ov::element::f32, {ranked ? uz[0] : any, ranked ? uz[1] : any, channels});
  }

  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
    check_new_args_count(this, inputs);
    return std::make_shared<MixerCore>(inputs);
  }

  bool visit_attributes(ov::AttributeVisitor&) override { return true; }

  bool has_evaluate() const override { return true; }

  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
    std::vector<ov::PartialShape> shapes;
    for (const ov::Tensor& input : inputs) shapes.emplace_back(input.get_shape());
    const std::string misfit = mixer_misfit(shapes);
    OPENVINO_ASSERT(misfit.empty(), "MixerCore: ", misfit);
    const auto data = [&inputs](size_t i) { return inputs[i].data<const float>(); };
    const auto side = [&inputs](size_t i, size_t axis) { return static_cast<int64_t>(inputs[i].get_shape()[axis]); };
    rs4d_mixer_inputs mixer{};
    mixer.uz = data(0), mixer.conv_weight = data(1), mixer.conv_bias = data(2), mixer.x_proj = data(3);
    mixer.dt_proj = data(4), mixer.dt_bias = data(5), mixer.a = data(6), mixer.d = data(7);
    mixer.batch = side(0, 0), mixer.length = side(0, 1), mixer.channels = side(1, 0), mixer.states = side(6, 1);
    mixer.rank = side(4, 1), mixer.taps = side(1, 1), mixer.threads = 0;  // all threads of the plugin's arena
    const int64_t floats = rs4d_mixer_workspace(&mixer);
    OPENVINO_ASSERT(floats >= 0, "MixerCore: the kernel refuses these shapes (code ", -floats, ")");
    const Workspace workspace(static_cast<size_t>(floats));
    outputs[0].set_shape({inputs[0].get_shape()[0], inputs[0].get_shape()[1], inputs[1].get_shape()[0]});
    const int code = rs4d_mixer_core(&mixer, outputs[0].data<float>(), workspace.data());
    OPENVINO_ASSERT(code == RS4D_OK, "MixerCore: the kernel failed (code ", code, ")");
    return true;
  }
};

ov::OutputVector inputs_of(const ov::frontend::NodeContext& node) {
  ov::OutputVector inputs;
  for (int i = 0; i < static_cast<int>(node.get_input_size()); ++i) inputs.push_back(node.get_input(i));
  return inputs;
}

ov::OutputVector scan_from_onnx(const ov::frontend::NodeContext& node) {
  return std::make_shared<SelectiveScan>(inputs_of(node), node.get_attribute<int64_t>("reverse", 0))->outputs();
}

ov::OutputVector mixer_from_onnx(const ov::frontend::NodeContext& node) {
  return std::make_shared<MixerCore>(inputs_of(node))->outputs();
}

}  // namespace
}  // namespace rs4d

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>({
    std::make_shared<ov::OpExtension<rs4d::SelectiveScan>>(),
    std::make_shared<ov::OpExtension<rs4d::MixerCore>>(),
    std::make_shared<ov::frontend::onnx::ConversionExtension>("SelectiveScan", "rs4d", rs4d::scan_from_onnx),
    std::make_shared<ov::frontend::onnx::ConversionExtension>("MixerCore", "rs4d", rs4d::mixer_from_onnx),
}));
