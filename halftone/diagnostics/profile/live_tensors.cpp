// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "halftone/diagnostics/profile/live_tensors_impl.h"

namespace halftone {
namespace {

using WeakTensor = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;

bool has_storage(const torch::Tensor& tensor) {
  return tensor.defined() && tensor.has_storage() && tensor.storage().nbytes() > 0;
}

bool lies_in_an_input(const c10::StorageImpl* storage, const OperationCall& call) {
  return std::any_of(call.inputs.begin(), call.inputs.end(), [&](const OperationTensors& input) {
    return std::any_of(input.tensors.begin(), input.tensors.end(), [&](const torch::Tensor& one) {
      return has_storage(one) && one.storage().unsafeGetStorageImpl() == storage;
    });
  });
}

}  // namespace

void LiveTensors::made_by(const OperationCall& call, const std::string& module, std::size_t mark,
                          bool is_kept_elsewhere) {
  for (const OperationTensors& output : call.outputs)
    for (const torch::Tensor& tensor : output.tensors) {
      if (!has_storage(tensor)) continue;
      const c10::StorageImpl* const storage = tensor.storage().unsafeGetStorageImpl();
      if (lies_in_an_input(storage, call)) continue;
      const auto found = entries_.find(storage);
      const bool is_known = found != entries_.end() && !found->second.storage.expired();
      if (is_known && found->second.order < mark) continue;
      const std::size_t order = is_known ? found->second.order : next_++;
      const bool kept = is_kept_elsewhere || (is_known && found->second.is_kept_elsewhere);
      Entry entry{.tensor = {.operation = call.name,
                             .module = module,
                             .dtype = tensor.scalar_type(),
                             .bytes = static_cast<double>(tensor.storage().nbytes())},
                  .order = order,
                  .is_kept_elsewhere = kept,
                  .storage = tensor.storage().getWeakStorageImpl(),
                  .first = WeakTensor(tensor.getIntrusivePtr())};
      entries_.insert_or_assign(storage, std::move(entry));
    }
}

std::vector<LiveTensor> LiveTensors::alive() const {
  std::vector<LiveTensor> found;
  for (const auto& [storage, entry] : entries_) {
    if (entry.storage.expired()) continue;
    // A tensor beside the one that the recorder holds, or a second owner of that one.
    if (entry.is_kept_elsewhere && entry.storage.use_count() <= 1 && entry.first.use_count() <= 1)
      continue;
    found.push_back(entry.tensor);
  }
  return found;
}

}  // namespace halftone
