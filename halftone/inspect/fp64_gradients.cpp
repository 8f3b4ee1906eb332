// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include "halftone/inspect/fp64_gradients_impl.h"
#include "halftone/inspect/recorder_impl.h"

namespace halftone {
namespace {

using torch::Tensor;
using Arguments = std::vector<c10::IValue>;

Tensor wide(const c10::IValue& value) {
  return value.isTensor() ? value.toTensor().detach().to(torch::kDouble) : Tensor();
}

/// y = n w with n = x r and r = 1 / rms(x):
/// dx = r (g - n mean(g n)) + the gradient of the sum, with g = dy w; dw = sum of dy n.
std::vector<Tensor> rms_norm_gradient(const Arguments& arguments) {
  const Tensor d_normed = wide(arguments[0]), d_sum = wide(arguments[1]);
  const Tensor x = wide(arguments[2]), weight = wide(arguments[3]);
  std::vector<std::int64_t> rows = x.sizes().vec();
  rows.back() = 1;
  const Tensor r = wide(arguments[4]).reshape(rows);
  const Tensor n = x * r, g = d_normed * weight;
  Tensor d_x = r * (g - n * (g * n).mean(-1, /*keepdim=*/true));
  if (d_sum.defined()) d_x = d_x + d_sum;
  return {d_x, arguments[5].isNone() ? Tensor() : d_x,
          (d_normed * n).reshape({-1, x.size(-1)}).sum(0)};
}

/// y = silu(a) b with silu(a) = a s and s = sigmoid(a): da = dy b s (1 + a (1 - s)), db = dy a s.
std::vector<Tensor> swiglu_gradient(const Arguments& arguments) {
  const Tensor d_out = wide(arguments[0]);
  const std::vector<Tensor> parts = wide(arguments[1]).chunk(2, -1);
  const Tensor &a = parts[0], &b = parts[1];
  const Tensor s = a.sigmoid();
  const Tensor d_a = d_out * b * s * (1 + a * (1 - s)), d_b = d_out * a * s;
  return {at::cat({d_a, d_b}, -1), arguments[2].toBool() ? a * s * b : Tensor()};
}

/// (B, T, n d) as n heads (B, n, T, d).
Tensor heads_of(const Tensor& rows, std::int64_t count) {
  return rows.unflatten(-1, {count, -1}).transpose(1, 2);
}

/// The pairs of each row turned by its step's rotations (T, d / 2).
Tensor turned(const Tensor& heads, const Tensor& rotations) {
  const Tensor pairs = at::view_as_complex(heads.unflatten(-1, {-1, 2}).contiguous());
  return at::view_as_real(pairs * rotations).flatten(-2);
}

/// Each head of keys or values once for each of the query heads that share it.
Tensor shared(const Tensor& heads, std::int64_t groups) {
  return heads.repeat_interleave(groups, /*dim=*/1);
}

/// P = softmax(q k^T / sqrt(d)), causal; dv = P^T dy, dS = P (dy v^T - sum of P (dy v^T)),
/// dq = dS k / sqrt(d), dk = dS^T q / sqrt(d). Without autograd: a backward pass within a step of
/// another one may take over that one's work.
std::vector<Tensor> rotary_attention_gradient(const Arguments& arguments) {
  const std::int64_t heads = arguments[4].toInt(), kv_heads = arguments[5].toInt();
  const std::int64_t groups = heads / kv_heads;
  const Tensor rotations = arguments[2].toTensor().to(torch::kComplexDouble);
  const Tensor all = heads_of(wide(arguments[1]), heads + 2 * kv_heads);
  const Tensor q = turned(all.narrow(1, 0, heads), rotations);
  const Tensor k = shared(turned(all.narrow(1, heads, kv_heads), rotations), groups);
  const Tensor v = shared(all.narrow(1, heads + kv_heads, kv_heads), groups);
  const Tensor d_y = heads_of(wide(arguments[0]), heads);
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(-1)));
  const std::int64_t steps = q.size(2);
  const Tensor future = at::ones({steps, steps}, q.options().dtype(torch::kBool)).triu(1);
  const double inf = std::numeric_limits<double>::infinity();
  const Tensor scores = (q.matmul(k.transpose(2, 3)) * scale).masked_fill(future, -inf);
  const Tensor p = scores.softmax(-1);
  const Tensor d_p = d_y.matmul(v.transpose(2, 3));
  const Tensor d_s = p * (d_p - (p * d_p).sum(-1, /*keepdim=*/true)) * scale;
  const auto summed = [&](const Tensor& each) {
    return each.unflatten(1, {kv_heads, groups}).sum(2);
  };
  const Tensor d_q = turned(d_s.matmul(k), rotations.conj());
  const Tensor d_k = turned(summed(d_s.transpose(2, 3).matmul(q)), rotations.conj());
  const Tensor d_v = summed(p.transpose(2, 3).matmul(d_y));
  return {at::cat({d_q, d_k, d_v}, 1).transpose(1, 2).flatten(2)};
}

}  // namespace

std::optional<std::vector<Tensor>> own_gradient_in_fp64(std::string_view operation,
                                                        const Arguments& arguments) {
  if (!is_own_operation(operation)) return std::nullopt;
  const std::string_view name = operation.substr(operation.rfind(':') + 1);
  if (name == "rms_norm_gradient") return rms_norm_gradient(arguments);
  if (name == "swiglu_gradient") return swiglu_gradient(arguments);
  if (name == "rotary_attention_gradient") return rotary_attention_gradient(arguments);
  return std::nullopt;
}

}  // namespace halftone
