// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/fused/layer_norm.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/group_norm.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/ones.h>

#include <optional>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/autocast/keep_fp32.h"
#include "halftone/core/dtype.h"
#include "halftone/core/error.h"
#include "halftone/kernels/common/operator_impl.h"

namespace halftone {
namespace {

using torch::ScalarType;
using torch::Tensor;

/// The tensors of a norm as it computes with them, and the dtype of its result.
struct NormOperands {
  Tensor x, weight, bias;
  ScalarType result = torch::kFloat;
};

ScalarType affine_dtype(const Tensor& x, const Tensor& weight) {
  if (!weight.defined()) return x.scalar_type();
  if (is_autocast_on(x.device().type()) && keeps_fp32(weight)) return torch::kFloat;
  return c10::promoteTypes(x.scalar_type(), weight.scalar_type());
}

Tensor to_if_defined(const Tensor& x, ScalarType dtype) { return x.defined() ? x.to(dtype) : x; }

NormOperands upcast_operands(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const ScalarType result = affine_dtype(x, weight);
  const ScalarType wide = result == torch::kDouble ? torch::kDouble : torch::kFloat;
  return {x.to(wide), to_if_defined(weight, wide), to_if_defined(bias, wide), result};
}

/// Whether LibTorch's kernels give x's own 16-bit dtype: without a copy of x, they have fp32
/// statistics beside an fp32 weight alone, and on the CPU.
bool stays_half(const Tensor& x, const Tensor& weight) {
  return x.is_cpu() && is_half(x.scalar_type()) && affine_dtype(x, weight) == x.scalar_type();
}

NormOperands half_operands(const Tensor& x, const Tensor& weight, const Tensor& bias,
                           std::int64_t size) {
  const Tensor wide = weight.defined() ? weight.to(torch::kFloat)
                                       : at::ones({size}, x.options().dtype(torch::kFloat));
  return {x, wide, to_if_defined(bias, torch::kFloat), x.scalar_type()};
}

bool learns(const Tensor& one) { return one.defined() && one.requires_grad(); }

/// Over the last dimension of `x`, in fp32 or double.
Tensor standardized(const Tensor& x, double eps) {
  const Tensor wide = upcast(x);
  const Tensor centred = wide - wide.mean(-1, /*keepdim=*/true);
  return centred * (centred.square().mean(-1, /*keepdim=*/true) + eps).rsqrt();
}

Tensor affine(const Tensor& normed, const Tensor& weight, const Tensor& bias, ScalarType dtype) {
  Tensor result = normed;
  if (weight.defined()) result = result * upcast(weight);
  if (bias.defined()) result = result + upcast(bias);
  return result.to(dtype);
}

void check_affine(const char* name, const Tensor& weight, const Tensor& bias, std::int64_t size) {
  const auto fits = [size](const Tensor& one) {
    return !one.defined() || one.sizes() == at::IntArrayRef({size});
  };
  HALFTONE_CHECK(fits(weight) && fits(bias), "[", name, "] expected weight and bias (", size,
                 "), got ", weight.defined() ? c10::str(weight.sizes()) : "none", " and ",
                 bias.defined() ? c10::str(bias.sizes()) : "none");
}

}  // namespace

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  HALFTONE_CHECK(x.dim() >= 1, "[layer_norm] expected x (..., dim), got a scalar");
  check_affine("layer_norm", weight, bias, x.size(-1));
  // LibTorch adds the gradients of weight and bias up in the dtype of x.
  const bool halves = stays_half(x, weight) && !learns(weight) && !learns(bias);
  const NormOperands in =
      halves ? half_operands(x, weight, bias, x.size(-1)) : upcast_operands(x, weight, bias);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  return at::layer_norm(in.x, {x.size(-1)}, if_defined(in.weight), if_defined(in.bias), eps)
      .to(in.result);
}

Tensor group_norm(const Tensor& x, std::int64_t groups, const Tensor& weight, const Tensor& bias,
                  double eps) {
  HALFTONE_CHECK(x.dim() >= 2 && groups >= 1 && x.size(1) % groups == 0,
                 "[group_norm] expected x (B, C, ...) with C a multiple of ", groups, ", got ",
                 x.sizes());
  check_affine("group_norm", weight, bias, x.size(1));
  const NormOperands in = stays_half(x, weight) ? half_operands(x, weight, bias, x.size(1))
                                                : upcast_operands(x, weight, bias);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  return at::group_norm(in.x, groups, if_defined(in.weight), if_defined(in.bias), eps)
      .to(in.result);
}

Tensor layer_norm_reference(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  const ScalarType dtype = affine_dtype(x, weight);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  return affine(standardized(x, eps), weight, bias, dtype);
}

Tensor group_norm_reference(const Tensor& x, std::int64_t groups, const Tensor& weight,
                            const Tensor& bias, double eps) {
  const ScalarType dtype = affine_dtype(x, weight);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const Tensor normed = standardized(x.reshape({x.size(0), groups, -1}), eps).view(x.sizes());
  std::vector<std::int64_t> shape(static_cast<std::size_t>(x.dim()), 1);
  shape[1] = x.size(1);
  const auto shaped = [&](const Tensor& one) { return one.defined() ? one.view(shape) : one; };
  return affine(normed, shaped(weight), shaped(bias), dtype);
}

}  // namespace halftone
