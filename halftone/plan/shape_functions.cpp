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

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "halftone/autocast/suppress_override_warning.h"
#include "halftone/plan/tensor_tally.h"
#include "halftone/plan/without_data_mode_impl.h"

namespace halftone {
namespace {

using torch::Tensor;

Tensor like_input(const Tensor& x) { return at::empty_like(x); }

Tensor magnitudes(const Tensor& x) {
  return at::empty_like(x, x.options().dtype(c10::toRealValueType(x.scalar_type())));
}

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
  // A kernel in front of all others holds the arguments, too.
  const std::size_t holders = WithoutDataMode::is_on() ? 2 : 1;
  const auto is_alone = [&](const Tensor& x) {
    return x.use_count() <= holders && x.storage().use_count() == 1;
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

// ---- those of LibTorch's fused kernels for the CPU

using Pair = std::tuple<Tensor, Tensor>;
using Triple = std::tuple<Tensor, Tensor, Tensor>;
using OptionalTensor = std::optional<Tensor>;

Tensor& in_place(Tensor& x) { return x; }

Tensor loss_gradient(const Tensor& /*g*/, const Tensor& x, const Tensor& /*target*/,
                     std::int64_t /*reduction*/) {
  return at::empty_like(x);
}

Tensor embedding_gradient(const Tensor& g, const Tensor& /*ids*/, c10::SymInt rows,
                          c10::SymInt /*padding*/, bool /*by_frequency*/) {
  return at::empty({rows.expect_int(), g.size(-1)}, g.options());
}

/// Heads beside each other in memory, as the kernel leaves them.
Tensor heads_like(const Tensor& x) {
  return at::empty({x.size(0), x.size(2), x.size(1), x.size(3)}, x.options()).transpose(1, 2);
}

Pair attended(const Tensor& query, const Tensor& /*key*/, const Tensor& /*value*/,
              double /*dropout*/, bool /*is_causal*/, const OptionalTensor& /*mask*/,
              std::optional<double> /*scale*/) {
  return {heads_like(query), at::empty({query.size(0), query.size(1), query.size(2)},
                                       query.options().dtype(torch::kFloat))};
}

Triple attention_gradients(const Tensor& /*g*/, const Tensor& query, const Tensor& key,
                           const Tensor& value, const Tensor& /*out*/, const Tensor& /*log_sums*/,
                           double /*dropout*/, bool /*is_causal*/, const OptionalTensor& /*mask*/,
                           std::optional<double> /*scale*/) {
  return {heads_like(query), heads_like(key), heads_like(value)};
}

Triple layer_normed(const Tensor& x, c10::SymIntArrayRef shape, const OptionalTensor& /*weight*/,
                    const OptionalTensor& /*bias*/, double /*eps*/) {
  std::vector<std::int64_t> rows = x.sizes().vec();
  std::fill(rows.end() - static_cast<std::ptrdiff_t>(shape.size()), rows.end(), 1);
  const auto fp32 = x.options().dtype(torch::kFloat);
  return {at::empty_like(x), at::empty(rows, fp32), at::empty(rows, fp32)};
}

Tensor like_if(bool wanted, const OptionalTensor& x) {
  return wanted && x && x->defined() ? at::empty_like(*x) : Tensor();
}

Triple layer_norm_gradients(const Tensor& /*g*/, const Tensor& x, c10::SymIntArrayRef /*shape*/,
                            const Tensor& /*mean*/, const Tensor& /*rstd*/,
                            const OptionalTensor& weight, const OptionalTensor& bias,
                            std::array<bool, 3> wanted) {
  return {like_if(wanted[0], x), like_if(wanted[1], weight), like_if(wanted[2], bias)};
}

Triple group_normed(const Tensor& x, const OptionalTensor& /*weight*/,
                    const OptionalTensor& /*bias*/, c10::SymInt count, c10::SymInt /*channels*/,
                    c10::SymInt /*places*/, std::int64_t groups, double /*eps*/) {
  const auto fp32 = x.options().dtype(torch::kFloat);
  const std::vector<std::int64_t> rows{count.expect_int(), groups};
  return {at::empty_like(x), at::empty(rows, fp32), at::empty(rows, fp32)};
}

Triple group_norm_gradients(const Tensor& /*g*/, const Tensor& x, const Tensor& /*mean*/,
                            const Tensor& /*rstd*/, const OptionalTensor& weight,
                            c10::SymInt /*count*/, c10::SymInt /*channels*/, c10::SymInt /*places*/,
                            std::int64_t /*groups*/, std::array<bool, 3> wanted) {
  return {like_if(wanted[0], x), like_if(wanted[1], weight), like_if(wanted[2], weight)};
}

Triple batch_normed(const Tensor& x, const OptionalTensor& /*weight*/,
                    const OptionalTensor& /*bias*/, const OptionalTensor& /*mean*/,
                    const OptionalTensor& /*variance*/, bool training, double /*momentum*/,
                    double /*eps*/) {
  const auto fp32 = x.options().dtype(torch::kFloat);
  const std::int64_t channels = training ? x.size(1) : 0;
  return {at::empty_like(x), at::empty({channels}, fp32), at::empty({channels}, fp32)};
}

Triple batch_norm_gradients(const Tensor& /*g*/, const Tensor& x, const OptionalTensor& weight,
                            const OptionalTensor& /*mean*/, const OptionalTensor& /*variance*/,
                            const OptionalTensor& /*saved_mean*/,
                            const OptionalTensor& /*saved_deviation*/, bool /*training*/,
                            double /*eps*/, std::array<bool, 3> wanted) {
  return {like_if(wanted[0], x), like_if(wanted[1], weight), like_if(wanted[2], weight)};
}

class Registration {
 public:
  Registration()
      : library_(torch::Library::IMPL, "aten", c10::DispatchKey::Meta, __FILE__, __LINE__) {
    add("_scaled_dot_product_flash_attention_for_cpu", attended);
    add("_scaled_dot_product_flash_attention_for_cpu_backward", attention_gradients);
    add("abs", magnitudes);
    add("abs.out", out_like_input);
    add("bernoulli_.float", random_in_place);
    add("convolution_backward_overrideable", convolution_gradients);
    add("convolution_overrideable", convolved);
    add("embedding_dense_backward", embedding_gradient);
    add("index_select", index_select);
    add("logical_or.out", out_broadcast);
    add("max", scalar_like);
    add("mse_loss_backward", loss_gradient);
    add("native_batch_norm", batch_normed);
    add("native_batch_norm_backward", batch_norm_gradients);
    add("native_group_norm", group_normed);
    add("native_group_norm_backward", group_norm_gradients);
    add("native_layer_norm", layer_normed);
    add("native_layer_norm_backward", layer_norm_gradients);
    add("relu", like_input);
    add("relu_", in_place);
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
