// SPDX-License-Identifier: Apache-2.0
#include <c10/core/DispatchKeySet.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>

#include "halftone/inspect/parameter_memory_impl.h"

namespace halftone {
namespace {

const char* address_of(const torch::Tensor& tensor) {
  return static_cast<const char*>(tensor.const_data_ptr());
}

/// Whether element i of the memory of one is element i of that of the other.
bool lie_alike(const torch::Tensor& a, const torch::Tensor& b) {
  if (a.sizes() != b.sizes()) return false;
  if (a.is_contiguous() && b.is_contiguous()) return true;
  return a.strides() == b.strides() && a.is_non_overlapping_and_dense();
}

}  // namespace

std::int64_t spanned_bytes(const torch::Tensor& tensor) {
  std::int64_t last = 0;
  for (std::int64_t d = 0; d < tensor.dim(); ++d) last += (tensor.size(d) - 1) * tensor.stride(d);
  return (last + 1) * static_cast<std::int64_t>(tensor.element_size());
}

bool is_readable(const torch::Tensor& tensor) {
  // Of a Python subclass, in vmap() and where it is traced, a tensor's numbers stand elsewhere.
  using c10::DispatchKey;
  constexpr c10::DispatchKeySet kStandIns({DispatchKey::Python, DispatchKey::FuncTorchBatched,
                                           DispatchKey::FuncTorchGradWrapper,
                                           DispatchKey::Functionalize, DispatchKey::ZeroTensor});
  return tensor.defined() && !tensor.key_set().has_any(kStandIns) &&
         tensor.layout() == torch::kStrided && tensor.has_storage() && !tensor.is_meta() &&
         (tensor.is_floating_point() || tensor.is_complex()) && tensor.numel() > 0 &&
         tensor.storage().nbytes() > 0;
}

ParameterMemory::ParameterMemory(const torch::nn::Module& module) {
  for (const auto& item : module.named_parameters()) {
    if (item.value().numel() == 0) continue;
    const char* const begin = address_of(item.value());
    add(begin, begin + spanned_bytes(item.value()), item.key());
  }
}

void ParameterMemory::add(const char* begin, const char* end, const std::string& name) {
  places_[begin] = {end, name};
}

ParameterMemory::Places ParameterMemory::places_between(const char* begin, const char* end) const {
  auto place = places_.upper_bound(begin);
  if (place != places_.begin() && std::prev(place)->second.end > begin) --place;
  return {place, places_.lower_bound(end)};
}

std::vector<std::string> ParameterMemory::names_in(const torch::Tensor& tensor) const {
  if (!is_readable(tensor)) return {};
  const char* const begin = address_of(tensor);
  std::vector<std::string> names;
  for (const auto& [address, place] : places_between(begin, begin + spanned_bytes(tensor)))
    names.push_back(place.name);
  return names;
}

void ParameterMemory::follow(const torch::Tensor& tensor, const torch::Tensor& copy) {
  if (!is_readable(tensor) || !is_readable(copy) || !lie_alike(tensor, copy)) return;
  const char* const begin = address_of(tensor);
  const char* const end = begin + spanned_bytes(tensor);
  const auto moved = [&](const char* address) {
    const auto element = (std::clamp(address, begin, end) - begin) /
                         static_cast<std::ptrdiff_t>(tensor.element_size());
    return address_of(copy) + element * static_cast<std::ptrdiff_t>(copy.element_size());
  };
  const Places places = places_between(begin, end);
  for (const auto& [address, place] : places)
    places_[moved(address)] = {moved(place.end), place.name};
  if (!places.empty()) copies_.push_back(copy);
}

void ParameterMemory::forget_copies() {
  for (const torch::Tensor& copy : copies_) {
    const char* const begin = address_of(copy);
    places_.erase(places_.lower_bound(begin), places_.lower_bound(begin + spanned_bytes(copy)));
  }
  copies_.clear();
}

}  // namespace halftone
