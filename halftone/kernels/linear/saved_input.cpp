// SPDX-License-Identifier: Apache-2.0
#include <torch/custom_class.h>

#include <cstdint>
#include <iterator>
#include <utility>

#include "halftone/kernels/linear/saved_input_impl.h"

namespace halftone {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* kOthers = "others";
constexpr const char* kCompute = "compute";
constexpr const char* kShape = "shape";
constexpr const char* kDtype = "dtype";

struct Computation : torch::CustomClassHolder {
  explicit Computation(Recomputation::Compute function) : compute(std::move(function)) {}
  Recomputation::Compute compute;
};

}  // namespace

void save_linear(AutogradContext* ctx, variable_list others, const Tensor& x, const Tensor& rows) {
  ctx->saved_data[kOthers] = static_cast<std::int64_t>(others.size());
  ctx->saved_data[kShape] = x.sizes().vec();
  ctx->saved_data[kDtype] = static_cast<std::int64_t>(x.scalar_type());
  variable_list saved = std::move(others);
  if (std::optional<Recomputation> recomputation = recomputation_of(x)) {
    std::move(recomputation->inputs.begin(), recomputation->inputs.end(),
              std::back_inserter(saved));
    ctx->saved_data[kCompute] = c10::IValue::make_capsule(
        c10::make_intrusive<Computation>(std::move(recomputation->compute)));
  } else {
    saved.push_back(rows);
  }
  ctx->save_for_backward(std::move(saved));
}

SavedLinear::SavedLinear(AutogradContext* ctx)
    : others_(ctx->get_saved_variables()),
      shape_(ctx->saved_data[kShape].toIntVector()),
      dtype_(static_cast<torch::ScalarType>(ctx->saved_data[kDtype].toInt())) {
  const auto first = others_.begin() + ctx->saved_data[kOthers].toInt();
  input_.assign(std::make_move_iterator(first), std::make_move_iterator(others_.end()));
  others_.erase(first, others_.end());
  if (const auto found = ctx->saved_data.find(kCompute); found != ctx->saved_data.end())
    compute_ = &static_cast<const Computation&>(*found->second.toCapsule()).compute;
}

Tensor SavedLinear::input_grad(const Tensor& d_rows) const {
  return d_rows.to(dtype_).view(shape_);
}

}  // namespace halftone
