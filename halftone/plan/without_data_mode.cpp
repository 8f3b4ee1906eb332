// SPDX-License-Identifier: Apache-2.0
// A kernel of LibTorch's dispatcher in front of all others: of the key that is there for making
// modules without their data, which nothing in LibTorch uses itself.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <unordered_set>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/plan/observed_call_impl.h"
#include "halftone/plan/operation_note_impl.h"
#include "halftone/plan/values_without_data_impl.h"
#include "halftone/plan/ways_of_cpu_impl.h"
#include "halftone/plan/without_data_mode_impl.h"
#include "halftone/plan/work_tally_impl.h"

namespace halftone {
namespace {

using torch::Tensor;
using torch::jit::Stack;

thread_local bool is_on = false;
/// Where the data lies that was made since.
thread_local std::unordered_set<const c10::StorageImpl*> made_places;

bool any_without_data(const OperationValues& arguments) {
  bool found = false;
  for (const c10::IValue& value : arguments)
    for_each_tensor(value, [&](const Tensor& x) { found = found || x.is_meta(); });
  return found;
}

bool any_with_data(const OperationValues& arguments) {
  bool found = false;
  for (const c10::IValue& value : arguments)
    for_each_tensor(value, [&](const Tensor& x) { found = found || x.is_cpu(); });
  return found;
}

bool has_tensor(const OperationValues& arguments) {
  bool found = false;
  for (const c10::IValue& value : arguments)
    for_each_tensor(value, [&](const Tensor& /*x*/) { found = true; });
  return found;
}

const c10::StorageImpl* place_of(const Tensor& x) {
  return x.has_storage() ? x.storage().unsafeGetStorageImpl() : nullptr;
}

void note_made_places(const OperationValues& results,
                      const std::vector<const c10::StorageImpl*>& known) {
  for (const c10::IValue& value : results)
    for_each_tensor(value, [&](const Tensor& x) {
      const c10::StorageImpl* const place = place_of(x);
      if (x.is_cpu() && std::find(known.begin(), known.end(), place) == known.end())
        made_places.insert(place);
    });
}

/// Nobody may ask for the memory of what is new among `results`, where nothing is. Whoever only
/// compares addresses (const_data_ptr()) may.
void guard_memory(const OperationValues& results,
                  const std::vector<const c10::StorageImpl*>& known) {
  for (const c10::IValue& value : results)
    for_each_tensor(value, [&](const Tensor& x) {
      const c10::StorageImpl* const place = place_of(x);
      const bool is_new = std::find(known.begin(), known.end(), place) == known.end();
      if (x.is_meta() && place != nullptr && is_new)
        x.storage().unsafeGetStorageImpl()->set_throw_on_mutable_data_ptr();
    });
}

/// The result of a factory that has no data is made on meta, and a table where it has.
/// A large table has none: a plan takes no memory that grows with the batch.
c10::Device device_of_made(const c10::OperatorHandle& op, const OperationNote& note,
                           c10::DispatchKeySet below, const OperationValues& arguments) {
  constexpr std::int64_t kLargestTable = std::int64_t{1} << 20U;
  if (!note.is_table) return torch::kMeta;
  Stack call(arguments.begin(), arguments.end());
  call[*note.device] = c10::Device(torch::kMeta);
  std::optional<WorkTally::Part> uncounted;
  if (WorkTally* const tally = WorkTally::current()) uncounted.emplace(*tally);
  op.redispatchBoxed(below, &call);
  return call.front().toTensor().numel() <= kLargestTable ? torch::kCPU : torch::kMeta;
}

void run(const c10::OperatorHandle& op, c10::DispatchKeySet below, Stack* stack) {
  const OperationNote& note = operation_note(op);
  const auto arguments = [&] {
    return OperationValues(stack->data() + stack->size() - note.arguments, note.arguments);
  };
  const std::size_t first = stack->size() - note.arguments;
  bool is_made_here = false;
  if (note.device && (*stack)[first + *note.device].isNone() && !has_tensor(arguments())) {
    const c10::Device device = device_of_made(op, note, below, arguments());
    (*stack)[first + *note.device] = device;
    is_made_here = device.is_meta();
  }
  const bool has_none = any_without_data(arguments());
  if (has_none && any_with_data(arguments()))
    for (std::size_t i = 0; i < note.arguments; ++i)
      (*stack)[first + i] = without_data((*stack)[first + i], note.is_own);
  std::optional<c10::impl::ExcludeDispatchKeyGuard> no_autocast;
  if (has_none && note.cast && is_autocast_here()) {
    no_autocast.emplace(c10::DispatchKey::AutocastCPU);
    cast_arguments(op, note, *stack);
  }
  if (has_none && note.name == "aten::scaled_dot_product_attention" &&
      takes_fused_attention(arguments()))
    return attend(*stack, note.arguments);
  WorkTally* const tally = WorkTally::current();
  const bool is_counted =
      tally != nullptr && (has_none || is_made_here) && !note.is_uncounted && !tally->is_in_part();
  std::optional<ObservedCall> seen;
  if (is_counted) seen.emplace(*tally, note, arguments());
  std::vector<const c10::StorageImpl*> places;  // of arguments
  for (const c10::IValue& value : arguments())
    for_each_tensor(value, [&](const Tensor& x) { places.push_back(place_of(x)); });
  op.redispatchBoxed(below, stack);
  const OperationValues results(stack->data() + stack->size() - note.results, note.results);
  if (!has_none) note_made_places(results, places);
  if (seen) seen->end(results);
  if (has_none || is_made_here) guard_memory(results, places);
}

void before_all_kernels(const c10::OperatorHandle& op, c10::DispatchKeySet keys, Stack* stack) {
  const c10::DispatchKeySet below =
      keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, WithoutDataMode::kKey);
  if (is_on)
    run(op, below, stack);
  else
    op.redispatchBoxed(below, stack);
}

void install_kernel() {
  // Never destroyed: nothing of it may be called when the process ends.
  static torch::Library& library =
      *new torch::Library(torch::Library::IMPL, "_", WithoutDataMode::kKey, __FILE__, __LINE__);
  [[maybe_unused]] static const bool once = [] {
    library.fallback(torch::CppFunction::makeFromBoxedFunction<&before_all_kernels>());
    prepare_notes();
    return true;
  }();
}

}  // namespace

WithoutDataMode::WithoutDataMode()
    : included_([] {
        install_kernel();
        return kKey;
      }()) {
  HALFTONE_CHECK(!halftone::is_on, "[without_data_mode] expected one at a time in a thread");
  halftone::is_on = true;
}

WithoutDataMode::~WithoutDataMode() {
  halftone::is_on = false;
  made_places.clear();
}

bool WithoutDataMode::take_data_of(const Tensor& x) {
  if (!x.is_cpu() || !made_places.contains(place_of(x))) return false;
  const c10::impl::ExcludeDispatchKeyGuard as_always(kKey);
  // set_data() refuses another device than one that has data.
  x.unsafeGetTensorImpl()->shallow_copy_from(without_data(x).getIntrusivePtr());
  return true;
}

bool WithoutDataMode::is_on() { return halftone::is_on; }

}  // namespace halftone
