// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/linear/stored_weights.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "halftone/autocast/keep_fp32.h"
#include "halftone/core/error.h"
#include "halftone/kernels/common/matrix_rows_impl.h"
#include "halftone/kernels/fused/embedding.h"
#include "halftone/kernels/gemm/gemm32.h"
#include "halftone/kernels/gemm/int8_gemm.h"
#include "halftone/kernels/gemm/matvec.h"
#include "halftone/kernels/linear/compute_context.h"

namespace halftone {
namespace {

using torch::ScalarType;
using torch::Tensor;

struct Storage {
  WeightStorage storage;
  std::string_view name;
  ScalarType dtype;
};

constexpr std::array<Storage, 4> kStorages = {{{WeightStorage::kFloat32, "fp32", torch::kFloat},
                                               {WeightStorage::kBFloat16, "bf16", torch::kBFloat16},
                                               {WeightStorage::kFloat16, "fp16", torch::kHalf},
                                               {WeightStorage::kInt8, "int8", torch::kChar}}};

const Storage& facts_of(WeightStorage storage) {
  return kStorages.at(static_cast<std::size_t>(storage));
}

/// `weight` rounded to 16 bits.
Tensor narrowed(const Tensor& weight, ScalarType dtype, const Tensor& place) {
  Tensor made = weight.detach().to(dtype);
  if (dtype == torch::kHalf && !made.isfinite().eq(weight.isfinite()).all().item<bool>())
    throw UserError(fmt::format("expected weights up to 65504 for fp16, got {}; hold them in bf16",
                                weight.detach().abs().max().item<double>()));
  if (!place.defined()) return made;
  const Tensor there = place.view(dtype).view(weight.sizes());
  there.copy_(made);
  return there;
}

/// One weight of 16 bits, whose values are exact in fp32.
Tensor widened_linear(const Tensor& x, const Tensor& weight) {
  const Tensor rows = as_rows(x), wide = weight.to(torch::kFloat);
  return gemm32(rows, wide.t()).view(with_last(x, weight.size(0)));
}

}  // namespace

std::string_view to_string(WeightStorage storage) { return facts_of(storage).name; }

WeightStorage parse_weight_storage(std::string_view name) {
  for (const Storage& one : kStorages)
    if (one.name == name) return one.storage;
  throw UserError(fmt::format("expected weights in fp32, bf16, fp16 or int8, got '{}'", name));
}

std::int64_t StoredWeights::bytes_of(const Tensor& weight, WeightStorage storage) {
  if (storage == WeightStorage::kInt8) return int8_weights_bytes(weight.size(0), weight.size(1));
  return weight.numel() * static_cast<std::int64_t>(c10::elementSize(facts_of(storage).dtype));
}

void StoredWeights::store(Tensor& weight, WeightStorage storage, Tensor place) {
  HALFTONE_CHECK(weight.dim() == 2 && weight.is_floating_point(),
                 "[stored_weights] expected a matrix of numbers, got ", weight.scalar_type(), " ",
                 weight.sizes());
  if (storage == WeightStorage::kInt8 && weight.size(1) > kMaxInt8Depth)
    throw UserError(fmt::format("expected layers of at most {} inputs for int8, got {}",
                                kMaxInt8Depth, weight.size(1)));
  const torch::NoGradGuard no_grad;
  Entry entry{Weak(weight.getIntrusivePtr()), {}};
  Tensor held;
  if (storage == WeightStorage::kInt8) {
    std::tie(held, entry.scales) = [&] {
      const Int8WeightMatrix made = quantize_weights(weight, place);
      return std::pair(made.integers, made.scales);
    }();
  } else {
    held = narrowed(weight, facts_of(storage).dtype, place);
  }
  weight.set_requires_grad(false);
  weight.set_data(held);
  entries_.insert_or_assign(weight.unsafeGetTensorImpl(), std::move(entry));
}

bool StoredWeights::holds(const Tensor& weight) const {
  return weight.defined() && entries_.contains(weight.unsafeGetTensorImpl());
}

Tensor StoredWeights::linear(const Tensor& x, const std::vector<Tensor>& weights,
                             ScalarType dtype) const {
  std::vector<Tensor> scales;  // of int8
  for (const Tensor& weight : weights) {
    const auto found = entries_.find(weight.unsafeGetTensorImpl());
    HALFTONE_CHECK(found != entries_.end(), "[stored_weights] expected weights that are held");
    if (found->second.scales.defined()) scales.push_back(found->second.scales);
  }
  if (scales.size() == weights.size()) return int8_weights_linear(x, weights, scales, dtype);
  HALFTONE_CHECK(scales.empty(), "[stored_weights] expected weights in one format");
  const Tensor wide = x.to(dtype).to(torch::kFloat);
  if (takes_matvec(wide, weights, torch::kFloat))
    return matvec(wide, weights, torch::kFloat).to(dtype);
  std::vector<Tensor> outputs;
  for (const Tensor& weight : weights) outputs.push_back(widened_linear(wide, weight).to(dtype));
  return outputs.size() == 1 ? outputs.front() : at::cat(outputs, -1);
}

Tensor StoredWeights::rows(const Tensor& weight, const Tensor& ids) const {
  const Tensor& scales = entries_.at(weight.unsafeGetTensorImpl()).scales;
  const Tensor found = halftone::embedding(weight, ids).to(torch::kFloat);
  return scales.defined() ? found * scales.index({ids}).unsqueeze(-1) : found;
}

const StoredWeights* stored_weights_of(const Tensor& weight) {
  const auto& held = compute_context().stored_weights;
  return held && held->holds(weight) ? held.get() : nullptr;
}

}  // namespace halftone
