// SPDX-License-Identifier: Apache-2.0
#include <ATen/autocast_mode.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <torch/types.h>

#include <optional>
#include <tuple>
#include <utility>

#include "halftone/autocast/cast_kernel_impl.h"
#include "halftone/plan/ways_of_cpu_impl.h"

namespace halftone {
namespace {

using torch::Tensor;
using torch::jit::Stack;

bool is_cast(const c10::IValue& item) {
  return is_without_data(item) && item.toTensor().is_floating_point() &&
         item.toTensor().scalar_type() != torch::kDouble;
}

template <class Visit>
void for_each_cast(const OperationValues& arguments, const Visit& visit) {
  for (const c10::IValue& value : arguments) {
    if (is_cast(value)) visit(value.toTensor());
    if (value.isTensorList())
      for (const c10::IValue& item : value.toListRef())
        if (is_cast(item)) visit(item.toTensor());
  }
}

c10::IValue cast_to(torch::ScalarType dtype, const c10::IValue& value) {
  if (is_cast(value)) return value.toTensor().to(dtype);
  if (!value.isTensorList()) return value;
  c10::List<Tensor> list;
  for (const c10::IValue& item : value.toListRef())
    list.push_back(is_cast(item) ? item.toTensor().to(dtype) : item.toTensor());
  return list;
}

/// The mask as it is added to the scores.
std::optional<Tensor> added_mask(const c10::IValue& mask, const Tensor& query) {
  if (!mask.isTensor() || !mask.toTensor().defined()) return std::nullopt;
  const Tensor& given = mask.toTensor();
  return given.scalar_type() == torch::kBool ? given.to(query.scalar_type()) : given;
}

}  // namespace

void cast_arguments(const c10::OperatorHandle& op, const OperationNote& note, Stack& stack) {
  const bool is_kept = takes_kept_tensor(op, stack);
  const CastPolicy policy = is_kept ? CastPolicy::kFp32 : *note.cast;
  const std::size_t first = stack.size() - note.arguments;
  if (policy == CastPolicy::kRefused) return;
  if (policy == CastPolicy::kFp32Dtype) {
    const std::optional<int> dtype = op.schema().argumentIndexWithName("dtype");
    c10::IValue& asked = stack[first + static_cast<std::size_t>(*dtype)];
    if (asked.isNone() && is_cast(stack[first])) asked = torch::kFloat;
    return;
  }
  torch::ScalarType dtype = at::autocast::get_autocast_dtype(torch::kCPU);
  if (policy == CastPolicy::kFp32) dtype = torch::kFloat;
  if (policy == CastPolicy::kWidest)
    for_each_cast(OperationValues(stack.data() + first, note.arguments), [&](const Tensor& x) {
      if (x.scalar_type() == torch::kFloat) dtype = torch::kFloat;
    });
  for (std::size_t i = first; i < stack.size(); ++i) stack[i] = cast_to(dtype, stack[i]);
}

bool is_autocast_here() {
  return at::autocast::is_autocast_enabled(torch::kCPU) &&
         !c10::impl::tls_is_dispatch_key_excluded(c10::DispatchKey::AutocastCPU);
}

bool takes_fused_attention(const OperationValues& call) {
  const Tensor &query = call[0].toTensor(), &key = call[1].toTensor(), &value = call[2].toTensor();
  const auto fits = [](const Tensor& x) {
    return x.dim() == 4 && x.numel() > 0 && x.is_floating_point() && x.stride(-1) == 1;
  };
  const bool learns_mask = call[3].isTensor() && call[3].toTensor().requires_grad();
  return fits(query) && fits(key) && fits(value) && query.size(3) == value.size(3) &&
         call[4].toDouble() == 0.0 && !learns_mask;
}

void attend(Stack& stack, std::size_t arguments) {
  const OperationValues call(stack.data() + stack.size() - arguments, arguments);
  const Tensor query = call[0].toTensor();
  const std::optional<double> scale = call[6].toOptional<double>();
  Tensor out = std::get<0>(at::_scaled_dot_product_flash_attention_for_cpu(
      query, call[1].toTensor(), call[2].toTensor(), 0.0, call[5].toBool(),
      added_mask(call[3], query), scale));
  torch::jit::drop(stack, arguments);
  stack.emplace_back(std::move(out));
}

}  // namespace halftone
