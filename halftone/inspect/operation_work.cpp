// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "halftone/inspect/operation_work_impl.h"
#include "halftone/inspect/recorder_impl.h"

namespace halftone {
namespace {

using torch::Tensor;

double wide(std::int64_t size) { return static_cast<double>(size); }

const Tensor& argument(const OperationCall& call, std::size_t i) {
  static const Tensor undefined;
  return i < call.inputs.size() && !call.inputs[i].tensors.empty() ? call.inputs[i].tensors.front()
                                                                   : undefined;
}

const Tensor& result(const OperationCall& call, std::size_t i = 0) {
  static const Tensor undefined;
  return i < call.outputs.size() && !call.outputs[i].tensors.empty()
             ? call.outputs[i].tensors.front()
             : undefined;
}

bool flag(const OperationCall& call, std::size_t i) {
  return i < call.arguments.size() && call.arguments[i].isBool() && call.arguments[i].toBool();
}

std::int64_t places(const Tensor& image) {
  std::int64_t count = 1;
  for (std::int64_t d = 2; d < image.dim(); ++d) count *= image.size(d);
  return count;
}

OperationWork product(const MatmulShape& shape) {
  return {2 * wide(shape.batch) * wide(shape.m) * wide(shape.n) * wide(shape.k), {shape}};
}

/// a (..., m, k) b (..., k, n), or b (k): arguments `first` and the one behind it.
template <std::size_t first>
OperationWork matmul(const OperationCall& call) {
  const Tensor &a = argument(call, first), &b = argument(call, first + 1);
  if (!a.defined() || !b.defined() || a.dim() < 2 || b.dim() < 1) return {};
  return product({.batch = a.dim() == 3 ? a.size(0) : 1,
                  .m = a.size(-2),
                  .n = b.dim() == 1 ? 1 : b.size(-1),
                  .k = a.size(-1),
                  .dtype = a.scalar_type()});
}

/// x (..., k) and weights (n_i, k).
OperationWork linear_layer(const OperationCall& call) {
  const Tensor& x = argument(call, 0);
  if (!x.defined() || x.dim() < 1 || call.inputs.size() < 2 || x.size(-1) == 0) return {};
  std::int64_t rows = 0;
  for (const Tensor& weight : call.inputs[1].tensors)
    if (weight.dim() == 2) rows += weight.size(0);
  return product({.m = x.numel() / x.size(-1),
                  .n = rows,
                  .k = x.size(-1),
                  .dtype = result(call).defined() ? result(call).scalar_type() : x.scalar_type()});
}

/// left (m) and right (n) rows with a scale each, four integers in a word of int32.
OperationWork int8_matmul(const OperationCall& call) {
  const Tensor &left = argument(call, 0), &left_scales = argument(call, 1),
               &right_scales = argument(call, 4);
  if (!left.defined() || !left_scales.defined() || !right_scales.defined() ||
      left_scales.numel() == 0)
    return {};
  const std::int64_t m = left_scales.numel();
  return product({.m = m,
                  .n = right_scales.numel(),
                  .k = static_cast<std::int64_t>(left.nbytes()) / m,
                  .dtype = torch::kChar});
}

/// One of the three matmuls of a layer that maps `x` to `y` by `weight`.
OperationWork convolved(const Tensor& x, const Tensor& weight, const Tensor& y, bool transposed) {
  if (!x.defined() || !weight.defined() || !y.defined() || weight.dim() < 3) return {};
  const std::int64_t filter = places(weight);
  const std::int64_t groups = std::max<std::int64_t>(
      1, transposed ? y.size(1) / weight.size(1) : x.size(1) / weight.size(1));
  OperationWork work = product({.batch = groups,
                                .m = x.size(0) * places(transposed ? x : y),
                                .n = weight.size(0) / groups,
                                .k = weight.size(1) * filter,
                                .dtype = weight.scalar_type(),
                                .filter = filter});
  return work;
}

template <std::size_t transposed>
OperationWork convolution(const OperationCall& call) {
  return convolved(argument(call, 0), argument(call, 1), result(call), flag(call, transposed));
}
template <bool transposed>
OperationWork convolution_kernel(const OperationCall& call) {
  return convolved(argument(call, 0), argument(call, 1), result(call), transposed);
}

/// The gradients of the input and of the weight are as much work as the layer itself, each.
/// `transposed`: the argument that says so; 0: none.
template <std::size_t transposed>
OperationWork convolution_backward(const OperationCall& call) {
  OperationWork work = convolved(argument(call, 1), argument(call, 2), argument(call, 0),
                                 transposed > 0 && flag(call, transposed));
  work.flops *= (result(call, 0).defined() ? 1 : 0) + (result(call, 1).defined() ? 1 : 0);
  return work;
}

struct AttentionSizes {
  std::int64_t batch = 0;  // with the heads
  std::int64_t queries = 0;
  std::int64_t keys = 0;
  std::int64_t key_size = 0;
  std::int64_t value_size = 0;
  bool is_causal = false;
  torch::ScalarType dtype = torch::kFloat;
};

/// Of a causal attention, query i sees i + 1 keys.
double pairs(const AttentionSizes& sizes) {
  const double all = wide(sizes.queries) * wide(sizes.keys);
  if (!sizes.is_causal || sizes.queries != sizes.keys) return all;
  return wide(sizes.queries) * wide(sizes.queries + 1) / 2;
}

/// Scores and weighted sums; backward the scores again and four matmuls more.
OperationWork attention(const AttentionSizes& sizes, bool is_backward) {
  const double each = 2 * wide(sizes.batch) * pairs(sizes);
  const double scores = each * wide(sizes.key_size), sums = each * wide(sizes.value_size);
  const MatmulShape shape{.batch = sizes.batch,
                          .m = sizes.queries,
                          .n = sizes.keys,
                          .k = sizes.key_size,
                          .dtype = sizes.dtype};
  return {is_backward ? 3 * scores + 2 * sums : scores + sums, {shape}};
}

/// (B, heads, T, d) each, argument `query` the first of them.
template <std::size_t query, std::size_t causal, bool is_backward>
OperationWork attention_of(const OperationCall& call) {
  const Tensor &q = argument(call, query), &k = argument(call, query + 1),
               &v = argument(call, query + 2);
  if (!q.defined() || !k.defined() || !v.defined() || q.dim() != 4) return {};
  return attention({.batch = q.size(0) * q.size(1),
                    .queries = q.size(2),
                    .keys = k.size(2),
                    .key_size = q.size(3),
                    .value_size = v.size(3),
                    .is_causal = flag(call, causal),
                    .dtype = q.scalar_type()},
                   is_backward);
}

/// qkv (B, T, width), rotations (T, d / 2), log_sums (B, heads, T).
OperationWork rotary(const Tensor& qkv, const Tensor& rotations, const Tensor& log_sums,
                     bool is_backward) {
  if (!qkv.defined() || !rotations.defined() || !log_sums.defined()) return {};
  const std::int64_t size = 2 * rotations.size(1);
  return attention({.batch = log_sums.size(0) * log_sums.size(1),
                    .queries = log_sums.size(2),
                    .keys = log_sums.size(2),
                    .key_size = size,
                    .value_size = size,
                    .is_causal = true,
                    .dtype = qkv.scalar_type()},
                   is_backward);
}
OperationWork rotary_forward(const OperationCall& call) {
  return rotary(argument(call, 0), argument(call, 1), result(call, 1), /*is_backward=*/false);
}
OperationWork rotary_backward(const OperationCall& call) {
  return rotary(argument(call, 1), argument(call, 2), argument(call, 3), /*is_backward=*/true);
}

/// query (B, heads, 1, d), key (B, kv_heads, T, d): each query's scores and sum.
OperationWork decode(const OperationCall& call) {
  const Tensor &q = argument(call, 0), &k = argument(call, 1);
  if (!q.defined() || !k.defined() || q.dim() != 4 || k.dim() != 4) return {};
  return {4 * wide(q.numel()) * wide(k.size(2)), {}};
}

/// x (T, B, in) or (B, T, in) through matrices (4 hidden, in) and (4 hidden, hidden), `passes`
/// times.
OperationWork recurrent(const Tensor& x, const std::vector<Tensor>& weights, double passes) {
  OperationWork work;
  if (!x.defined() || x.dim() != 3) return work;
  for (const Tensor& weight : weights) {
    if (!weight.defined() || weight.dim() != 2) continue;
    const OperationWork one = product({.m = x.size(0) * x.size(1),
                                       .n = weight.size(0),
                                       .k = weight.size(1),
                                       .dtype = weight.scalar_type()});
    work.flops += passes * one.flops;
    work.matmuls.push_back(one.matmuls.front());
  }
  return work;
}
template <int passes>
OperationWork onednn_lstm(const OperationCall& call) {
  return recurrent(argument(call, 0), {argument(call, 1), argument(call, 2)}, passes);
}
template <int passes>
OperationWork cudnn_lstm(const OperationCall& call) {
  return call.inputs.size() < 2 ? OperationWork{}
                                : recurrent(argument(call, 0), call.inputs[1].tensors, passes);
}

using Formula = OperationWork (*)(const OperationCall&);
using Formulas = std::map<std::string, Formula, std::less<>>;

const Formulas& libtorch_formulas() {
  static const Formulas formulas = {
      {"mm", matmul<0>},
      {"bmm", matmul<0>},
      {"mv", matmul<0>},
      {"_int_mm", matmul<0>},
      {"_scaled_mm", matmul<0>},
      {"addmm", matmul<1>},
      {"addmm_", matmul<1>},
      {"_addmm_activation", matmul<1>},
      {"baddbmm", matmul<1>},
      {"baddbmm_", matmul<1>},
      {"addbmm", matmul<1>},
      {"addmv", matmul<1>},
      {"linear", linear_layer},
      {"mkldnn_linear", linear_layer},
      {"convolution", convolution<6>},
      {"convolution_overrideable", convolution<6>},
      {"_convolution", convolution<6>},
      {"mkldnn_convolution", convolution_kernel<false>},
      {"_slow_conv2d_forward", convolution_kernel<false>},
      {"slow_conv3d_forward", convolution_kernel<false>},
      {"_conv_depthwise2d", convolution_kernel<false>},
      {"conv_depthwise3d", convolution_kernel<false>},
      {"slow_conv_dilated2d", convolution_kernel<false>},
      {"slow_conv_dilated3d", convolution_kernel<false>},
      {"cudnn_convolution", convolution_kernel<false>},
      {"slow_conv_transpose2d", convolution_kernel<true>},
      {"slow_conv_transpose3d", convolution_kernel<true>},
      {"cudnn_convolution_transpose", convolution_kernel<true>},
      {"convolution_backward", convolution_backward<7>},
      {"convolution_backward_overrideable", convolution_backward<6>},
      {"_slow_conv2d_backward", convolution_backward<0>},
      {"_scaled_dot_product_flash_attention_for_cpu", attention_of<0, 4, false>},
      {"_scaled_dot_product_flash_attention_for_cpu_backward", attention_of<1, 7, true>},
      {"_scaled_dot_product_flash_attention", attention_of<0, 4, false>},
      {"_scaled_dot_product_flash_attention_backward", attention_of<1, 11, true>},
      {"_scaled_dot_product_efficient_attention", attention_of<0, 6, false>},
      {"_scaled_dot_product_cudnn_attention", attention_of<0, 6, false>},
      {"mkldnn_rnn_layer", onednn_lstm<1>},
      {"mkldnn_rnn_layer_backward", onednn_lstm<2>},
      {"_cudnn_rnn", cudnn_lstm<1>},
      {"_cudnn_rnn_backward", cudnn_lstm<2>}};
  return formulas;
}

const Formulas& own_formulas() {
  static const Formulas formulas = {{"linear", linear_layer},
                                    {"matvec", linear_layer},
                                    {"gemm32_", matmul<1>},
                                    {"int8_gemm", int8_matmul},
                                    {"rotary_attention", rotary_forward},
                                    {"rotary_attention_gradient", rotary_backward},
                                    {"decode_attention", decode}};
  return formulas;
}

Formula formula_of(std::string_view name) {
  const std::size_t colons = name.find("::");
  if (colons == std::string_view::npos) return nullptr;
  const Formulas& formulas = is_own_operation(name) ? own_formulas() : libtorch_formulas();
  if (!is_own_operation(name) && !name.starts_with("aten::")) return nullptr;
  const auto formula = formulas.find(name.substr(colons + 2));
  return formula != formulas.end() ? formula->second : nullptr;
}

}  // namespace

OperationWork operation_work(const OperationCall& call) {
  if (call.is_backward) return {};
  const Formula formula = formula_of(call.name);
  return formula != nullptr ? formula(call) : OperationWork{};
}

bool multiplies(std::string_view operation) { return formula_of(operation) != nullptr; }

}  // namespace halftone
