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

#include "halftone/autocast/keep_fp32.h"
#include "halftone/core/dtype.h"
#include "halftone/core/error.h"
#include "halftone/kernels/common/fused_kernels.h"
#include "halftone/kernels/common/kernel_type_impl.h"
#include "halftone/kernels/common/recomputation_impl.h"
#include "halftone/kernels/common/recorded_op_impl.h"
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
  return at::autocast::is_autocast_enabled(x.device().type()) && keeps_fp32(weight);
}

/// The dtype of the normed values: `dtype` only narrows.
torch::ScalarType normed_dtype(const Tensor& x, torch::ScalarType dtype) {
  return x.scalar_type() == torch::kFloat && is_half(dtype) ? dtype : x.scalar_type();
}

bool takes_kernel(const Tensor& x, const Tensor& branch, const Tensor& weight) {
  const torch::ScalarType dtype = x.scalar_type();
  if (!is_fused(FusedKernel::kRmsNorm) || !is_simd_operand(x) || x.dim() == 0 || x.numel() == 0)
    return false;
  if (!weight.is_cpu() || weight.scalar_type() != dtype || weight.dim() != 1 ||
      weight.size(0) != x.size(-1))
    return false;
  if (dtype != torch::kFloat && kept_in_fp32(x, weight)) return false;
  if (!branch.defined()) return true;
  return is_simd_operand(branch) && branch.sizes() == x.sizes() &&
         (dtype == torch::kFloat || branch.scalar_type() == dtype);
}

const void* data_of(const Tensor& x) { return x.defined() ? x.const_data_ptr() : nullptr; }
void* mutable_data_of(const Tensor& x) { return x.defined() ? x.data_ptr() : nullptr; }

struct Gradients {
  Tensor d_x;
  Tensor d_branch;
  Tensor d_weight;
};

struct BranchAndNormed {
  bool has_branch;
  torch::ScalarType branch;
  torch::ScalarType normed;
};

Gradients fused_grads(const Tensor& sum, const Tensor& weight, const Tensor& inverse_rms,
                      const variable_list& output_grads, const BranchAndNormed& dtypes) {
  ObservedOperation observed("halftone::rms_norm_gradient", output_grads[1], output_grads[0], sum,
                             weight);
  const torch::ScalarType dtype = sum.scalar_type();
  const Tensor d_sum =
      output_grads[0].defined() ? output_grads[0].to(dtype).contiguous() : Tensor();
  const Tensor d_normed = output_grads[1].to(dtypes.normed).contiguous();
  Gradients grads{.d_x = at::empty_like(sum)};
  if (dtypes.has_branch && dtypes.branch != dtype)
    grads.d_branch = at::empty(sum.sizes(), sum.options().dtype(dtypes.branch));
  const std::int64_t width = sum.size(-1);
  const std::int64_t count = sum.numel() / width;
  const std::int64_t blocks = (count + kBlock - 1) / kBlock;
  const Tensor partial = at::zeros({blocks, width}, sum.options().dtype(torch::kFloat));
  const RmsNormGradRows rows{.sum = data_of(sum),
                             .weight = data_of(weight),
                             .inverse_rms = inverse_rms.const_data_ptr<float>(),
                             .d_normed = data_of(d_normed),
                             .d_sum = data_of(d_sum),
                             .d_x = mutable_data_of(grads.d_x),
                             .d_branch = mutable_data_of(grads.d_branch),
                             .width = width,
                             .type = kernel_type(dtype),
                             .branch_type = kernel_type(dtypes.branch),
                             .normed_type = kernel_type(dtypes.normed)};
  auto* sums = partial.data_ptr<float>();
  at::parallel_for(0, blocks, 1, [&](std::int64_t block, std::int64_t end) {
    for (; block < end; ++block)
      rms_norm_grad_rows(rows, block * kBlock, std::min((block + 1) * kBlock, count),
                         sums + block * width);
  });
  grads.d_weight = partial.sum(0).to(weight.scalar_type());
  observed.set_outputs(grads.d_x, grads.d_branch, grads.d_weight);
  return grads;
}

struct AddRmsNorm : torch::autograd::Function<AddRmsNorm> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x,
                               const std::optional<Tensor>& maybe_branch, const Tensor& weight,
                               double eps, torch::ScalarType dtype) {
    ctx->set_materialize_grads(false);
    const Tensor branch = maybe_branch.value_or(Tensor());
    const Tensor dense = x.contiguous();
    const Tensor joining = branch.defined() ? branch.contiguous() : Tensor();
    const Tensor scale = weight.contiguous();
    const Tensor sum = branch.defined() ? at::empty_like(dense) : Tensor();
    const Tensor normed = at::empty(dense.sizes(), dense.options().dtype(dtype));
    const std::int64_t width = dense.size(-1);
    const std::int64_t count = dense.numel() / width;
    const Tensor inverse_rms = at::empty({count}, x.options().dtype(torch::kFloat));
    const torch::ScalarType branch_dtype = branch.defined() ? branch.scalar_type() : dtype;
    const RmsNormRows rows{.x = data_of(dense),
                           .branch = data_of(joining),
                           .weight = data_of(scale),
                           .sum = mutable_data_of(sum),
                           .normed = normed.data_ptr(),
                           .inverse_rms = inverse_rms.data_ptr<float>(),
                           .width = width,
                           .eps = static_cast<float>(eps),
                           .type = kernel_type(x.scalar_type()),
                           .branch_type = kernel_type(branch_dtype),
                           .normed_type = kernel_type(dtype)};
    at::parallel_for(0, count, kNormGrain, [&](std::int64_t begin, std::int64_t end) {
      rms_norm_rows(rows, begin, end);
    });
    ctx->save_for_backward({sum.defined() ? sum : x, weight, inverse_rms});
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["branch"] = branch.defined();
    ctx->saved_data["branch_dtype"] = static_cast<std::int64_t>(branch_dtype);
    ctx->saved_data["dtype"] = static_cast<std::int64_t>(dtype);
    return {sum.defined() ? sum : x, normed};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& output_grads) {
    const variable_list saved = ctx->get_saved_variables();
    const Tensor& sum = saved[0];
    const Tensor& weight = saved[1];
    const bool has_branch = ctx->saved_data["branch"].toBool();
    const auto branch_dtype =
        static_cast<torch::ScalarType>(ctx->saved_data["branch_dtype"].toInt());
    const auto dtype = static_cast<torch::ScalarType>(ctx->saved_data["dtype"].toInt());
    Gradients grads{.d_x = output_grads[0]};
    if (output_grads[1].defined() && torch::GradMode::is_enabled()) {
      const double eps = ctx->saved_data["eps"].toDouble();
      const variable_list found = reference_grads(
          [eps, dtype](const variable_list& in) {
            return variable_list{rms_norm_reference(in[0], in[1], eps).to(dtype)};
          },
          {sum, weight}, {output_grads[1]});
      grads.d_x = !grads.d_x.defined() ? found[0]
                  : found[0].defined() ? grads.d_x + found[0]
                                       : grads.d_x;
      grads.d_weight = found[1];
    } else if (output_grads[1].defined()) {
      grads = fused_grads(sum.contiguous(), weight.contiguous(), saved[2], output_grads,
                          {has_branch, branch_dtype, dtype});
    }
    if (has_branch && !grads.d_branch.defined() && grads.d_x.defined())
      grads.d_branch = grads.d_x.to(branch_dtype);
    return {grads.d_x, has_branch ? grads.d_branch : Tensor(), grads.d_weight, Tensor(), Tensor()};
  }
};

NormedSum fused(const Tensor& x, const Tensor& branch, const Tensor& weight, double eps,
                torch::ScalarType dtype) {
  ObservedOperation observed("halftone::rms_norm", x, branch, weight);
  const auto joining = branch.defined() ? std::optional<Tensor>(branch) : std::nullopt;
  const variable_list outputs = AddRmsNorm::apply(x, joining, weight, eps, dtype);
  observed.set_outputs(branch.defined() ? outputs[0] : Tensor(), outputs[1]);
  return {outputs[0], outputs[1]};
}

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
                         return fused(in[0], {}, in[1], eps, dtype).normed;
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
  return takes_kernel(x, {}, weight) ? fused(x, {}, weight, eps, x.scalar_type()).normed
                                     : rms_norm_reference(x, weight, eps);
}

NormedSum add_rms_norm(const Tensor& x, const Tensor& branch, const Tensor& weight, double eps,
                       torch::ScalarType dtype) {
  const torch::ScalarType normed = normed_dtype(x, dtype);
  // Narrowed values have the branch's dtype, or there is no branch.
  const bool joins =
      !branch.defined() || normed == x.scalar_type() || normed == branch.scalar_type();
  if (joins && takes_kernel(x, branch, weight)) return fused(x, branch, weight, eps, normed);
  if (!branch.defined()) return add_rms_norm_reference(x, {}, weight, eps, dtype);
  // The same bits as for a sum that is handed in.
  const Tensor sum = x + branch;
  return {sum, add_rms_norm(sum, {}, weight, eps, dtype).normed};
}

}  // namespace halftone
