// SPDX-License-Identifier: Apache-2.0
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "halftone/kernels/linear/saved_linear_impl.h"
#include "halftone/kernels/linear/weight_cache.h"

namespace halftone {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// All but the tensors, which are saved in the order: weights, what is kept of them, the input.
struct SavedLinear::Record : torch::CustomClassHolder {
  LinearCall call;
  std::vector<std::int64_t> shape;  // of x
  torch::ScalarType dtype = torch::kFloat;
  std::ptrdiff_t weights = 0;
  std::ptrdiff_t kept_weight = 0;
  Recomputation::Compute compute;  // of x, or none
};

namespace {

constexpr const char* kRecord = "record";

void append(variable_list& list, variable_list more) {
  std::move(more.begin(), more.end(), std::back_inserter(list));
}

}  // namespace

void save_linear(AutogradContext* ctx, const LinearCall& call, const Tensor& x,
                 const Operand& input, at::TensorList weights, const Operand& weight) {
  auto record = c10::make_intrusive<SavedLinear::Record>();
  record->call = call;
  record->shape = x.sizes().vec();
  record->dtype = x.scalar_type();
  variable_list saved = weights.vec(), kept_weight = weight.kept();
  record->weights = std::ssize(saved);
  record->kept_weight = std::ssize(kept_weight);
  append(saved, std::move(kept_weight));
  const bool learns = std::any_of(weights.begin(), weights.end(),
                                  [](const Tensor& one) { return one.requires_grad(); });
  if (!learns) {
    // The gradient of x alone is a product of the weights.
  } else if (std::optional<Recomputation> recomputation = recomputation_of(x)) {
    append(saved, std::move(recomputation->inputs));
    record->compute = std::move(recomputation->compute);
  } else {
    variable_list rows = input.kept();
    if (rows.empty()) rows.push_back(x);
    append(saved, std::move(rows));
  }
  ctx->saved_data[kRecord] = c10::IValue::make_capsule(std::move(record));
  ctx->save_for_backward(std::move(saved));
}

SavedLinear::SavedLinear(AutogradContext* ctx)
    : holder_(ctx->saved_data[kRecord].toCapsule()),
      record_(static_cast<const Record*>(holder_.get())),
      weights_(ctx->get_saved_variables()) {
  const auto kept = weights_.begin() + record_->weights;
  const auto input = kept + record_->kept_weight;
  kept_weight_.assign(std::make_move_iterator(kept), std::make_move_iterator(input));
  input_.assign(std::make_move_iterator(input), std::make_move_iterator(weights_.end()));
  weights_.erase(kept, weights_.end());
}

const LinearCall& SavedLinear::call() const { return record_->call; }

OperandPtr SavedLinear::weight() const {
  return weight_operand(call().context, call().type, weights_, kept_weight_);
}

Tensor SavedLinear::input(const Tensor& d_x) const {
  if (record_->compute) return record_->compute(input_, d_x);
  if (!input_.empty()) return input_.front();
  return at::zeros(record_->shape, weights_.front().options().dtype(record_->dtype))
      .set_requires_grad(true);
}

torch::ScalarType SavedLinear::input_grad_dtype() const {
  const torch::ScalarType own = tensor_dtype(call().type);
  return own == torch::kFloat ? record_->dtype : own;
}

Tensor SavedLinear::input_grad(const Tensor& d_rows) const {
  return d_rows.to(record_->dtype).view(record_->shape);
}

}  // namespace halftone
