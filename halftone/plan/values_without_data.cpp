// SPDX-License-Identifier: Apache-2.0
#include <ATen/core/List.h>
#include <ATen/ops/empty_strided.h>

#include <optional>

#include "halftone/plan/values_without_data_impl.h"

namespace halftone {
namespace {

using torch::Tensor;

bool has_plain_data(const Tensor& x) {
  return x.is_cpu() && x.layout() == torch::kStrided && !x.requires_grad();
}

template <class Item>
c10::IValue list_without_data(const c10::IValue& value) {
  c10::List<Item> list;
  for (const c10::IValue& item : value.toListRef()) {
    const bool has_data =
        item.isTensor() && item.toTensor().defined() && has_plain_data(item.toTensor());
    list.push_back(has_data ? Item(without_data(item.toTensor())) : item.to<Item>());
  }
  return list;
}

}  // namespace

torch::Tensor without_data(const torch::Tensor& x) {
  return at::empty_strided(x.sizes(), x.strides(), x.options().device(torch::kMeta));
}

c10::IValue without_data(const c10::IValue& value, bool scalars_too) {
  if (value.isTensor()) {
    const Tensor& x = value.toTensor();
    return x.defined() && has_plain_data(x) && (x.dim() > 0 || scalars_too)
               ? c10::IValue(without_data(x))
               : value;
  }
  if (value.isTensorList()) return list_without_data<Tensor>(value);
  if (value.isOptionalTensorList()) return list_without_data<std::optional<Tensor>>(value);
  return value;
}

}  // namespace halftone
