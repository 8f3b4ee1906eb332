// SPDX-License-Identifier: Apache-2.0
#include "halftone/plan/shape_functions.h"

#include <ATen/ExpandUtils.h>
#include <ATen/native/ConvUtils.h>
#include <ATen/ops/add_meta_dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/result_type.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/library.h>
#include <torch/types.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "halftone/autocast/suppress_override_warning.h"
#include "halftone/plan/tensor_tally.h"

namespace halftone {
namespace {

using torch::Tensor;

Tensor like_input(const Tensor& x) { return at::empty_like(x); }

Tensor& out_like_input(const Tensor& x, Tensor& out) { return out.resize_(x.sizes()), out; }

Tensor& out_broadcast(const Tensor& a, const Tensor& b, Tensor& out) {
  return out.resize_(at::infer_size(a.sizes(), b.sizes())), out;
}

Tensor scalar_like(const Tensor& x) { return at::empty({}, x.options()); }

Tensor index_select(const Tensor& x, std::int64_t dim, const Tensor& index) {
  std::vector<std::int64_t> shape = x.sizes().vec();
  if (!shape.empty())
    shape[static_cast<std::size_t>(dim < 0 ? dim + x.dim() : dim)] = index.numel();
  return at::empty(shape, x.options());
}

std::vector<std::int64_t> chosen_shape(const Tensor& condition, const Tensor& a, const Tensor& b) {
  return at::infer_size(condition.sizes(), at::infer_size(a.sizes(), b.sizes()));
}

Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b) {
  return at::empty(chosen_shape(condition, a, b), condition.options().dtype(at::result_type(a, b)));
}

Tensor& where_out(const Tensor& condition, const Tensor& a, const Tensor& b, Tensor& out) {
  return out.resize_(chosen_shape(condition, a, b)), out;
}

Tensor& random_in_place(Tensor& x, double /*p*/, std::optional<at::Generator> /*generator*/) {
  return x;
}

/// Autograd adds the second gradient of a tensor into the first if nobody else has that. For
/// tensors without data it does not; here it does.
Tensor joined(const Tensor& a, const Tensor& b, const at::Scalar& alpha) {
  const auto is_alone = [](const Tensor& x) {
    return x.use_count() == 1 && x.storage().use_count() == 1;
  };
  const bool in_backward = torch::autograd::get_current_graph_task_id() != -1;
  if (TensorTally::is_counting() && in_backward && !torch::GradMode::is_enabled() && is_alone(a) &&
      a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type() && a.is_contiguous())
    return a;
  return at::meta::add(a, b, alpha);
}

// Of a convolution; the operations are what LibTorch calls for a device that is none of its own.
Tensor convolved(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& /*bias*/,
                 at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                 bool transposed, at::IntArrayRef output_padding, std::int64_t groups) {
  const std::vector<std::int64_t> shape =
      transposed
          ? at::native::conv_input_size(x.sizes(), weight.sizes(), padding, output_padding, stride,
                                        dilation, groups)
          : at::native::conv_output_size(x.sizes(), weight.sizes(), padding, stride, dilation);
  return at::empty(shape, x.options().memory_format(x.suggest_memory_format()));
}

std::tuple<Tensor, Tensor, Tensor> convolution_gradients(
    const Tensor& g, const Tensor& x, const Tensor& weight, at::IntArrayRef /*stride*/,
    at::IntArrayRef /*padding*/, at::IntArrayRef /*dilation*/, bool /*transposed*/,
    at::IntArrayRef /*output_padding*/, std::int64_t /*groups*/, std::array<bool, 3> wanted) {
  return {wanted[0] ? at::empty_like(x) : Tensor(), wanted[1] ? at::empty_like(weight) : Tensor(),
          wanted[2] ? at::empty({g.size(1)}, g.options()) : Tensor()};
}

class Registration {
 public:
  Registration()
      : library_(torch::Library::IMPL, "aten", c10::DispatchKey::Meta, __FILE__, __LINE__) {
    add("abs", like_input);
    add("abs.out", out_like_input);
    add("bernoulli_.float", random_in_place);
    add("convolution_backward_overrideable", convolution_gradients);
    add("convolution_overrideable", convolved);
    add("index_select", index_select);
    add("logical_or.out", out_broadcast);
    add("max", scalar_like);
    add("where.self", where);
    add("where.self_out", where_out);
    const QuietOverride quiet;
    library_.impl("add.Tensor", joined);
  }

 private:
  template <class Kernel>
  void add(const std::string& name, Kernel* kernel) {
    const std::size_t dot = name.find('.');
    const std::string base = "aten::" + name.substr(0, dot);
    const std::string overload = dot == std::string::npos ? "" : name.substr(dot + 1);
    const auto op = c10::Dispatcher::singleton().findSchema({base, overload});
    if (op && !op->hasKernelForDispatchKey(c10::DispatchKey::Meta))
      library_.impl(name.c_str(), kernel);
  }

  torch::Library library_;
};

}  // namespace

void register_shape_functions() { static const Registration registration; }

}  // namespace halftone
