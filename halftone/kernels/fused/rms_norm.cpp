// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/fused/rms_norm.h"

#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "halftone/autocast/autocast.h"
#include "halftone/autocast/keep_fp32.h"
#include "halftone/core/dtype.h"
#include "halftone/core/error.h"
#include "halftone/kernels/common/fused_kernels.h"
#include "halftone/kernels/common/kernel_type_impl.h"
#include "halftone/kernels/common/operator_impl.h"
#include "halftone/kernels/common/recomputation_impl.h"
#include "halftone/kernels/common/reference_grads_impl.h"
#include "halftone/kernels/fused/rms_norm_impl.h"

namespace halftone {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t kNormGrain = 16;  // rows worth a thread
constexpr std::int64_t kBlock = 64;  // rows whose weight gradients are summed one after the other

bool kept_in_fp32(const Tensor& x, const Tensor& weight) {
  return is_autocast_on(x.device().type()) && keeps_fp32(weight);
}

/// The dtype of the normed values: `dtype` only narrows.
torch::ScalarType normed_dtype(const Tensor& x, torch::ScalarType dtype) {
  return x.scalar_type() == torch::kFloat && is_half(dtype) ? dtype : x.scalar_type();
}

/// Whether the kernel takes them; on one device, all of them. Narrowed values have the branch's
/// dtype, or there is no branch.
bool takes_norm(const Tensor& x, const Tensor& branch, const Tensor& weight,
                torch::ScalarType normed) {
  const torch::ScalarType dtype = x.scalar_type();
  if (!is_fused(FusedKernel::kRmsNorm) || !is_simd_operand(x) || x.dim() == 0 || x.numel() == 0)
    return false;
  if (weight.scalar_type() != dtype || weight.dim() != 1 || weight.size(0) != x.size(-1))
    return false;
  if (dtype != torch::kFloat && kept_in_fp32(x, weight)) return false;
  if (!branch.defined()) return true;
  return is_simd_operand(branch) && branch.sizes() == x.sizes() &&
         (dtype == torch::kFloat || branch.scalar_type() == dtype) &&
         (normed == dtype || normed == branch.scalar_type());
}

const void* data_of(const Tensor& x) { return x.defined() ? x.const_data_ptr() : nullptr; }
void* mutable_data_of(const Tensor& x) { return x.defined() ? x.data_ptr() : nullptr; }

/// The sum, the normed values, and for each row 1 / its root mean square, fp32.
using Normed = std::tuple<Tensor, Tensor, Tensor>;
using NormSignature = Normed(const Tensor& x, const std::optional<Tensor>& branch,
                             const Tensor& weight, double eps, torch::ScalarType dtype);

Normed norm_buffers(const Tensor& x, const std::optional<Tensor>& branch, const Tensor& /*weight*/,
                    double /*eps*/, torch::ScalarType dtype) {
  return {branch ? at::empty(x.sizes(), x.options()) : x,
          at::empty(x.sizes(), x.options().dtype(dtype)),
          at::empty({x.numel() / x.size(-1)}, x.options().dtype(torch::kFloat))};
}

Normed norm_rows(const Tensor& x, const std::optional<Tensor>& branch, const Tensor& weight,
                 double eps, torch::ScalarType dtype) {
  const Tensor dense = x.contiguous();
  const Tensor joining = branch ? branch->contiguous() : Tensor();
  const Tensor scale = weight.contiguous();
  const Normed made = norm_buffers(x, branch, weight, eps, dtype);
  const auto& [sum, normed, inverse_rms] = made;
  const RmsNormRows rows{.x = data_of(dense),
                         .branch = data_of(joining),
                         .weight = data_of(scale),
                         .sum = branch ? sum.data_ptr() : nullptr,
                         .normed = normed.data_ptr(),
                         .inverse_rms = inverse_rms.data_ptr<float>(),
                         .width = dense.size(-1),
                         .eps = static_cast<float>(eps),
                         .type = kernel_type(x.scalar_type()),
                         .branch_type = kernel_type(branch ? branch->scalar_type() : dtype),
                         .normed_type = kernel_type(dtype)};
  at::parallel_for(0, inverse_rms.numel(), kNormGrain,
                   [&](std::int64_t begin, std::int64_t end) { rms_norm_rows(rows, begin, end); });
  return made;
}

/// Gradients of x, of the branch where its dtype is another one, and of the weight.
using NormGradients = std::tuple<Tensor, Tensor, Tensor>;
using NormGradientSignature = NormGradients(const Tensor& d_normed,
                                            const std::optional<Tensor>& d_sum, const Tensor& sum,
                                            const Tensor& weight, const Tensor& inverse_rms,
                                            std::optional<torch::ScalarType> branch);

NormGradients norm_gradient_buffers(const Tensor& /*d_normed*/,
                                    const std::optional<Tensor>& /*d_sum*/, const Tensor& sum,
                                    const Tensor& weight, const Tensor& /*inverse_rms*/,
                                    std::optional<torch::ScalarType> branch) {
  return {at::empty_like(sum),
          branch ? at::empty(sum.sizes(), sum.options().dtype(*branch)) : Tensor(),
          at::empty_like(weight)};
}

NormGradients norm_gradient_rows(const Tensor& d_normed, const std::optional<Tensor>& d_sum,
                                 const Tensor& sum, const Tensor& weight, const Tensor& inverse_rms,
                                 std::optional<torch::ScalarType> branch) {
  const torch::ScalarType dtype = sum.scalar_type();
  HALFTONE_CHECK(sum.dim() > 0 && sum.numel() > 0 && d_normed.sizes() == sum.sizes() &&
                     (!d_sum || d_sum->sizes() == sum.sizes()) && weight.dim() == 1 &&
                     weight.size(0) == sum.size(-1) && weight.scalar_type() == dtype &&
                     inverse_rms.numel() == sum.numel() / sum.size(-1) && is_simd_operand(sum) &&
                     is_simd_operand(d_normed) && sum.is_contiguous() && d_normed.is_contiguous() &&
                     weight.is_contiguous(),
                 "[rms_norm] expected dense gradients and sums of one shape and a weight of their "
                 "last size, got ",
                 d_normed.sizes(), ", ", sum.sizes(), " and ", weight.sizes());
  const Tensor from_sum = d_sum ? d_sum->to(dtype).contiguous() : Tensor();
  const Tensor d_x = at::empty_like(sum);
  const Tensor d_branch = branch ? at::empty(sum.sizes(), sum.options().dtype(*branch)) : Tensor();
  const std::int64_t width = sum.size(-1);
  const std::int64_t count = sum.numel() / width;
  const std::int64_t blocks = (count + kBlock - 1) / kBlock;
  const Tensor partial = at::zeros({blocks, width}, sum.options().dtype(torch::kFloat));
  const RmsNormGradRows rows{.sum = data_of(sum),
                             .weight = data_of(weight),
                             .inverse_rms = inverse_rms.const_data_ptr<float>(),
                             .d_normed = data_of(d_normed),
                             .d_sum = data_of(from_sum),
                             .d_x = mutable_data_of(d_x),
                             .d_branch = mutable_data_of(d_branch),
                             .width = width,
                             .type = kernel_type(dtype),
                             .branch_type = kernel_type(branch.value_or(d_normed.scalar_type())),
                             .normed_type = kernel_type(d_normed.scalar_type())};
  auto* sums = partial.data_ptr<float>();
  at::parallel_for(0, blocks, 1, [&](std::int64_t block, std::int64_t end) {
    for (; block < end; ++block)
      rms_norm_grad_rows(rows, block * kBlock, std::min((block + 1) * kBlock, count),
                         sums + block * width);
  });
  return {d_x, d_branch, partial.sum(0).to(weight.scalar_type())};
}

const Operator<NormGradientSignature> rms_norm_gradient(
    "rms_norm_gradient(Tensor d_normed, Tensor? d_sum, Tensor sum, Tensor weight, "
    "Tensor inverse_rms, ScalarType? branch) -> (Tensor, Tensor, Tensor)",
    {.cpu = norm_gradient_rows, .meta = norm_gradient_buffers});

extern const Operator<NormSignature> rms_norm_operator;

struct AddRmsNorm : torch::autograd::Function<AddRmsNorm> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x,
                               const std::optional<Tensor>& branch, const Tensor& weight,
                               double eps, torch::ScalarType dtype) {
    ctx->set_materialize_grads(false);
    const auto [sum, normed, inverse_rms] =
        rms_norm_operator.below_autograd(x, x, branch, weight, eps, dtype);
    ctx->mark_non_differentiable({inverse_rms});
    ctx->save_for_backward({sum, weight, inverse_rms});
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["branch"] = branch.has_value();
    ctx->saved_data["branch_dtype"] =
        static_cast<std::int64_t>(branch ? branch->scalar_type() : dtype);
    ctx->saved_data["dtype"] = static_cast<std::int64_t>(dtype);
    return {sum, normed, inverse_rms};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& output_grads) {
    const variable_list saved = ctx->get_saved_variables();
    const Tensor& sum = saved[0];
    const Tensor& weight = saved[1];
    const bool has_branch = ctx->saved_data["branch"].toBool();
    const auto branch_dtype =
        static_cast<torch::ScalarType>(ctx->saved_data["branch_dtype"].toInt());
    const auto dtype = static_cast<torch::ScalarType>(ctx->saved_data["dtype"].toInt());
    Tensor d_x = output_grads[0], d_branch, d_weight;
    if (output_grads[1].defined() && torch::GradMode::is_enabled()) {
      const double eps = ctx->saved_data["eps"].toDouble();
      const variable_list found = reference_grads(
          [eps, dtype](const variable_list& in) {
            return variable_list{rms_norm_reference(in[0], in[1], eps).to(dtype)};
          },
          {sum, weight}, {output_grads[1]});
      if (!d_x.defined())
        d_x = found[0];
      else if (found[0].defined())
        d_x = d_x + found[0];
      d_weight = found[1];
    } else if (output_grads[1].defined()) {
      const bool apart = has_branch && branch_dtype != sum.scalar_type();
      std::tie(d_x, d_branch, d_weight) = rms_norm_gradient(
          output_grads[1].to(dtype).contiguous(), if_defined(d_x), sum.contiguous(),
          weight.contiguous(), saved[2], apart ? std::optional(branch_dtype) : std::nullopt);
    }
    if (has_branch && !d_branch.defined() && d_x.defined()) d_branch = d_x.to(branch_dtype);
    return {d_x, has_branch ? d_branch : Tensor(), d_weight, Tensor(), Tensor()};
  }
};

Normed recorded_norm(const Tensor& x, const std::optional<Tensor>& branch, const Tensor& weight,
                     double eps, torch::ScalarType dtype) {
  const variable_list made = AddRmsNorm::apply(x, branch, weight, eps, dtype);
  return {made[0], made[1], made[2]};
}

Normed norm_by_definition(const Tensor& x, const std::optional<Tensor>& branch,
                          const Tensor& weight, double eps, torch::ScalarType dtype) {
  const NormedSum made = add_rms_norm_reference(x, branch.value_or(Tensor()), weight, eps, dtype);
  return {made.sum, made.normed, Tensor()};
}

/// By `kernel`, where it takes the operands.
template <NormSignature* kernel>
Normed norm_by(const Tensor& x, const std::optional<Tensor>& branch, const Tensor& weight,
               double eps, torch::ScalarType dtype) {
  const torch::ScalarType normed = normed_dtype(x, dtype);
  if (takes_norm(x, branch.value_or(Tensor()), weight, normed))
    return kernel(x, branch, weight, eps, normed);
  if (!branch) return norm_by_definition(x, branch, weight, eps, dtype);
  // The same bits as for a sum that is handed in.
  const Tensor sum = x + *branch;
  const Normed made = norm_by<kernel>(sum, std::nullopt, weight, eps, dtype);
  return {sum, std::get<1>(made), std::get<2>(made)};
}

const Operator<NormSignature> rms_norm_operator(
    "rms_norm(Tensor(a) x, Tensor? branch, Tensor weight, float eps, ScalarType dtype) -> "
    "(Tensor(a), Tensor, Tensor)",
    {.reference = norm_by_definition,
     .autograd = norm_by<recorded_norm>,
     .cpu = norm_by<norm_rows>,
     .meta = norm_by<norm_buffers>});

std::optional<Recomputation> rms_norm_again(torch::autograd::CppNode<AddRmsNorm>& node,
                                            std::uint32_t output) {
  constexpr std::uint32_t kNormed = 1;  // the other output is the sum
  if (output != kNormed) return {};
  AutogradContext& ctx = node.ctx_;
  const variable_list saved = ctx.get_saved_variables();
  const double eps = ctx.saved_data["eps"].toDouble();
  const auto dtype = static_cast<torch::ScalarType>(ctx.saved_data["dtype"].toInt());
  return Recomputation{.inputs = {saved[0], saved[1]},
                       .compute = [eps, dtype](const variable_list& in, const Tensor&) {
                         return add_rms_norm(in[0], {}, in[1], eps, dtype).normed;
                       }};
}

const RegisterRecomputation<AddRmsNorm, rms_norm_again> rms_norm_registered;

}  // namespace

Tensor rms_norm_reference(const Tensor& x, const Tensor& weight, double eps) {
  const bool kept = kept_in_fp32(x, weight);
  // CUDA's autocast would round nothing here, but keep the arithmetic this library's own.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const Tensor wide = x.scalar_type() == torch::kDouble ? x : x.to(torch::kFloat);
  const Tensor inverse_rms = (wide.square().mean(-1, /*keepdim=*/true) + eps).rsqrt();
  const Tensor normed = wide * inverse_rms;
  return kept ? normed * upcast(weight) : normed.to(x.scalar_type()) * weight;
}

NormedSum add_rms_norm_reference(const Tensor& x, const Tensor& branch, const Tensor& weight,
                                 double eps, torch::ScalarType dtype) {
  const Tensor sum = branch.defined() ? x + branch : x;
  const Tensor normed = rms_norm_reference(sum, weight, eps);
  return {sum, normed.to(normed_dtype(normed, dtype))};
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  return add_rms_norm(x, {}, weight, eps, torch::kFloat).normed;
}

NormedSum add_rms_norm(const Tensor& x, const Tensor& branch, const Tensor& weight, double eps,
                       torch::ScalarType dtype) {
  const Normed made = rms_norm_operator(x, if_defined(branch), weight, eps, dtype);
  return {std::get<0>(made), std::get<1>(made)};
}

}  // namespace halftone
