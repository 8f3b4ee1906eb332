// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/fused/embedding.h"

#include <ATen/Parallel.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/embedding_dense_backward.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <vector>

#include "halftone/core/dtype.h"
#include "halftone/core/error.h"
#include "halftone/kernels/common/fused_kernels.h"
#include "halftone/kernels/common/kernel_type_impl.h"
#include "halftone/kernels/common/matrix_rows_impl.h"
#include "halftone/kernels/common/operator_impl.h"
#include "halftone/kernels/fused/embedding_impl.h"

namespace halftone {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Contiguous int64 ids, each of them checked.
Tensor checked_ids(const Tensor& ids, std::int64_t classes) {
  HALFTONE_CHECK(ids.scalar_type() == torch::kLong || ids.scalar_type() == torch::kInt,
                 "[embedding] expected int64 or int32 ids, got ", ids.scalar_type());
  const Tensor flat = ids.to(torch::kLong).reshape({-1}).contiguous();
  const auto* id = flat.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < flat.numel(); ++i)
    HALFTONE_CHECK(0 <= id[i] && id[i] < classes, "[embedding] expected ids in 0 .. ", classes - 1,
                   ", got ", id[i]);
  return flat;
}

/// The rows of each id, by counting.
struct Groups {
  std::vector<std::int64_t> order;
  std::vector<std::int64_t> starts;
};

Groups grouped(const Tensor& ids, std::int64_t classes) {
  const auto* id = ids.const_data_ptr<std::int64_t>();
  const std::int64_t count = ids.numel();
  Groups groups{std::vector<std::int64_t>(static_cast<std::size_t>(count)),
                std::vector<std::int64_t>(static_cast<std::size_t>(classes) + 1)};
  std::int64_t* starts = groups.starts.data();
  for (std::int64_t i = 0; i < count; ++i) ++starts[id[i]];
  // Each becomes the end of its group, then, filled from behind, the beginning.
  for (std::int64_t v = 1; v <= classes; ++v) starts[v] += starts[v - 1];
  for (std::int64_t i = count - 1; i >= 0; --i)
    groups.order[static_cast<std::size_t>(--starts[id[i]])] = i;
  return groups;
}

void check_weight(const Tensor& weight) {
  HALFTONE_CHECK(weight.dim() == 2, "[embedding] expected a weight (V, dim), got ", weight.sizes());
}

Tensor lookup_by_definition(const Tensor& weight, const Tensor& ids) {
  check_weight(weight);
  return at::embedding(weight, ids);
}

Tensor checked_lookup(const Tensor& weight, const Tensor& ids) {
  check_weight(weight);
  checked_ids(ids, weight.size(0));
  return at::embedding(weight, ids);
}

Tensor lookup_buffer(const Tensor& weight, const Tensor& ids) {
  check_weight(weight);
  std::vector<std::int64_t> shape = ids.sizes().vec();
  shape.push_back(weight.size(1));
  return at::empty(shape, weight.options());
}

extern const Operator<Tensor(const Tensor&, const Tensor&)> embedding_operator;

struct Lookup : torch::autograd::Function<Lookup> {
  static Tensor forward(AutogradContext* ctx, const Tensor& weight, const Tensor& ids) {
    ctx->save_for_backward({ids});
    ctx->saved_data["classes"] = weight.size(0);
    return embedding_operator.below_autograd(weight, weight, ids);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const Tensor ids = ctx->get_saved_variables().front();
    const std::int64_t classes = ctx->saved_data["classes"].toInt();
    if (torch::GradMode::is_enabled())  // to be differentiated again
      return {at::embedding_dense_backward(gradients.front(), ids, classes, /*padding_idx=*/-1,
                                           /*scale_grad_by_freq=*/false),
              {}};
    return {embedding_gradient(gradients.front(), ids, classes), {}};
  }
};

Tensor recorded_lookup(const Tensor& weight, const Tensor& ids) {
  if (!is_fused(FusedKernel::kEmbedding) || !is_simd_operand(weight))
    return checked_lookup(weight, ids);
  return Lookup::apply(weight, ids);
}

Tensor recorded_without_data(const Tensor& weight, const Tensor& ids) {
  return Lookup::apply(weight, ids);
}

const Operator<Tensor(const Tensor&, const Tensor&)> embedding_operator(
    "embedding(Tensor weight, Tensor ids) -> Tensor", {.reference = lookup_by_definition,
                                                       .autograd = recorded_lookup,
                                                       .cpu = checked_lookup,
                                                       .meta = lookup_buffer,
                                                       .autograd_meta = recorded_without_data});

void check_gradient(const Tensor& gradient, const Tensor& ids) {
  HALFTONE_CHECK(gradient.dim() == ids.dim() + 1 &&
                     gradient.sizes().slice(0, gradient.dim() - 1) == ids.sizes(),
                 "[embedding] expected gradient (..., dim) and ids (...), got ", gradient.sizes(),
                 " and ", ids.sizes());
}

using GradientSignature = Tensor(const Tensor& gradient, const Tensor& ids, std::int64_t classes);

Tensor sums_buffer(const Tensor& gradient, const Tensor& ids, std::int64_t classes) {
  check_gradient(gradient, ids);
  return at::empty({classes, gradient.size(-1)}, gradient.options());
}

Tensor sums_by_id(const Tensor& gradient, const Tensor& ids, std::int64_t classes) {
  check_gradient(gradient, ids);
  if (!is_simd_operand(gradient)) return embedding_gradient_reference(gradient, ids, classes);
  const Tensor rows = as_rows(gradient).contiguous();
  const Groups groups = grouped(checked_ids(ids, classes), classes);
  const Tensor sums = at::empty({classes, rows.size(1)}, rows.options());
  const EmbeddingGradient work{.rows = rows.const_data_ptr(),
                               .sums = sums.mutable_data_ptr(),
                               .type = kernel_type(rows.scalar_type()),
                               .dim = rows.size(1),
                               .order = groups.order.data(),
                               .starts = groups.starts.data()};
  const std::int64_t grain = std::max<std::int64_t>(1, 32768 / std::max<std::int64_t>(1, work.dim));
  at::parallel_for(0, classes, grain, [&](std::int64_t begin, std::int64_t end) {
    embedding_gradient_range(work, begin, end);
  });
  return sums;
}

const Operator<GradientSignature> embedding_gradient_operator(
    "embedding_gradient(Tensor gradient, Tensor ids, int classes) -> Tensor",
    {.reference = embedding_gradient_reference, .cpu = sums_by_id, .meta = sums_buffer});

}  // namespace

Tensor embedding(const Tensor& weight, const Tensor& ids) {
  return embedding_operator(weight, ids);
}

Tensor embedding_gradient(const Tensor& gradient, const Tensor& ids, std::int64_t classes) {
  const torch::NoGradGuard no_grad;
  return embedding_gradient_operator(gradient, ids, classes);
}

Tensor embedding_gradient_reference(const Tensor& gradient, const Tensor& ids,
                                    std::int64_t classes) {
  check_gradient(gradient, ids);
  const bool narrow = is_half(gradient.scalar_type());
  return at::embedding_dense_backward(narrow ? gradient.to(torch::kFloat) : gradient, ids, classes,
                                      /*padding_idx=*/-1, /*scale_grad_by_freq=*/false)
      .to(gradient.scalar_type());
}

}  // namespace halftone
