// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "halftone/inspect/wider_operation_impl.h"
#include "halftone/plan/observed_call_impl.h"

namespace halftone {
namespace {

using torch::Tensor;

/// Of a view, those of the elements; of a broadcast one, those of what lies there.
double bytes_of(const Tensor& x) {
  const auto all = static_cast<double>(x.numel()) * static_cast<double>(x.element_size());
  return x.has_storage() ? std::min(all, static_cast<double>(x.storage().nbytes())) : all;
}

}  // namespace

ObservedCall::ObservedCall(WorkTally& tally, const OperationNote& note,
                           const OperationValues& arguments)
    : tally_(tally), note_(note), count_(tally.count()), own_count_(tally.own_count()) {
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const bool is_read = !(i == 0 && note.overwrites);
    for_each_tensor(arguments[i], [&](const Tensor& x) {
      const double bytes = bytes_of(x);
      if (is_read) (i == 0 ? first_ : others_) += bytes;
      if (note.is_written[i]) {
        written_ += bytes;
        written_numbers_ += static_cast<double>(x.numel());
      }
      if (x.has_storage()) places_.push_back(x.storage().unsafeGetStorageImpl());
    });
  }
  if (!note.multiplies) return;
  call_.name = note.name;
  for (const c10::IValue& value : arguments) {
    call_.arguments.push_back(value);
    call_.inputs.push_back({.tensors = tensors_in(value), .is_list = value.isList()});
  }
}

void ObservedCall::end(const OperationValues& results) {
  double made = 0, numbers = written_numbers_;
  bool is_new = false;
  for (const c10::IValue& value : results)
    for_each_tensor(value, [&](const Tensor& x) {
      const bool is_known =
          x.has_storage() && std::find(places_.begin(), places_.end(),
                                       x.storage().unsafeGetStorageImpl()) != places_.end();
      if (is_known) return;
      is_new = true;
      made += bytes_of(x);
      numbers += static_cast<double>(x.numel());
    });
  if (note_.is_view || (!is_new && written_ == 0) || is_made_of_counted()) return;
  if (note_.multiplies)
    for (const c10::IValue& value : results)
      call_.outputs.push_back({.tensors = tensors_in(value), .is_list = value.isList()});
  else
    call_.name = note_.name;
  const double read = note_.looks_up ? std::min(first_, made) : first_;
  tally_.add_operation(call_, read + others_ + made + written_,
                       note_.computes_functions ? numbers : 0);
}

}  // namespace halftone
