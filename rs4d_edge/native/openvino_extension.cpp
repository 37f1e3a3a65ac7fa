// The scan as an OpenVINO operation, computed by the kernel beside it on OpenVINO's own threads (built with RS4D_TBB).
// Built against the headers and libraries of the installed openvino wheel, for exactly that version.
#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>
#include <openvino/frontend/onnx/extension/conversion.hpp>
#include <openvino/op/op.hpp>

#include "scan.h"

namespace rs4d {
namespace {

// Inputs u, delta, a, b, c, d; attribute reverse (0 or 1); output y. Shapes as in scan.h. fp32: the CPU plugin converts
// around it when the model runs in bf16.
class SelectiveScan : public ov::op::Op {
 public:
  // Python operations belong to the set "extension"; with the same name and set, one IR file serves both.
  OPENVINO_OP("SelectiveScan", "extension");

  SelectiveScan() = default;
  SelectiveScan(const ov::OutputVector& inputs, int64_t reverse) : Op(inputs), reverse_(reverse) {
    constructor_validate_and_infer_types();
  }

  void validate_and_infer_types() override {
    NODE_VALIDATION_CHECK(this, get_input_size() == 6, "SelectiveScan takes u, delta, a, b, c, d; got ",
                          get_input_size(), " inputs");
    for (size_t i = 0; i < 6; ++i) {
      const ov::element::Type type = get_input_element_type(i);
      NODE_VALIDATION_CHECK(this, type == ov::element::f32 || type.is_dynamic(), "SelectiveScan computes in f32; input ",
                            i, " is ", type);
    }
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

ov::OutputVector from_onnx(const ov::frontend::NodeContext& node) {
  ov::OutputVector inputs;
  for (int i = 0; i < static_cast<int>(node.get_input_size()); ++i) inputs.push_back(node.get_input(i));
  return std::make_shared<SelectiveScan>(inputs, node.get_attribute<int64_t>("reverse", 0))->outputs();
}

}  // namespace
}  // namespace rs4d

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>({
    std::make_shared<ov::OpExtension<rs4d::SelectiveScan>>(),
    std::make_shared<ov::frontend::onnx::ConversionExtension>("SelectiveScan", "rs4d", rs4d::from_onnx),
}));
