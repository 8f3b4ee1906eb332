// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <initializer_list>
#include <map>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "halftone/inspect/operation_work_impl.h"
#include "halftone/inspect/recorder_impl.h"
#include "halftone/plan/operation_note_impl.h"
#include "halftone/plan/shapes_by_numbers_impl.h"

namespace halftone {

bool ends_in_any(std::string_view name, std::initializer_list<std::string_view> endings) {
  return std::any_of(endings.begin(), endings.end(),
                     [&](std::string_view ending) { return name.ends_with(ending); });
}

namespace {

/// Computed from numbers alone: code may look at them, and LibTorch's own does.
bool is_table(std::string_view name) {
  return ends_in_any(name, {"::arange", "::range", "::linspace", "::logspace", "::eye", "_window",
                            "::scalar_tensor", "_indices", "::fft_fftfreq", "::fft_rfftfreq"});
}

/// Gives memory, and computes nothing.
bool only_allocates(std::string_view name) {
  return name.find("::empty") != std::string_view::npos ||
         ends_in_any(name, {"::new_empty", "::new_empty_strided", "::resize_", "::set_",
                            "::_local_scalar_dense", "::is_same_size", "::detach_"});
}

/// Reads as much of its first argument as it gives.
bool looks_up(std::string_view name) {
  return ends_in_any(name, {"::embedding", "::index_select", "::index", "::gather"});
}

/// Writes to its first argument without reading it.
bool overwrites(std::string_view name) {
  return ends_in_any(name, {"::copy_", "::fill_", "::zero_", "::normal_", "::uniform_",
                            "::bernoulli_", "::random_", "::exponential_"});
}

/// Computes exp() or its like for each number that it gives.
bool computes_functions(std::string_view name) {
  constexpr std::array<std::string_view, 27> kNames = {"gelu",         "gelu_backward",
                                                       "silu",         "silu_backward",
                                                       "mish",         "mish_backward",
                                                       "exp",          "expm1",
                                                       "log",          "log10",
                                                       "log2",         "tanh",
                                                       "sigmoid",      "sin",
                                                       "cos",          "erf",
                                                       "erfinv",       "pow",
                                                       "normal_",      "_softmax",
                                                       "_log_softmax", "softplus",
                                                       "swiglu",       "swiglu_gradient",
                                                       "elu",          "row_cross_entropy",
                                                       "logsumexp"};
  const std::size_t colons = name.find("::");
  if (colons == std::string_view::npos) return false;
  std::string_view plain = name.substr(colons + 2);
  if (plain != "normal_" && plain.ends_with('_')) plain.remove_suffix(1);  // in place
  return std::find(kNames.begin(), kNames.end(), plain) != kNames.end();
}

bool is_alias(const c10::Argument& result) {
  return result.alias_info() != nullptr && !result.alias_info()->isWrite();
}

OperationNote note_of_schema(const c10::FunctionSchema& schema) {
  const std::string& name = schema.name();
  OperationNote note{.name = name,
                     .arguments = schema.arguments().size(),
                     .results = schema.returns().size(),
                     .is_table = is_table(name),
                     .is_own = is_own_operation(name),
                     .multiplies = multiplies(name),
                     .is_uncounted = only_allocates(name),
                     .looks_up = looks_up(name),
                     .computes_functions = computes_functions(name),
                     .overwrites = overwrites(name)};
  for (std::size_t i = 0; i < note.arguments; ++i) {
    const c10::Argument& argument = schema.arguments()[i];
    if (argument.name() == "device" && !name.ends_with("::from_file")) note.device = i;
    note.is_written.push_back(argument.alias_info() != nullptr && argument.alias_info()->isWrite());
  }
  note.is_view = !schema.returns().empty() &&
                 std::all_of(schema.returns().begin(), schema.returns().end(), is_alias);
  note.is_random = std::any_of(schema.arguments().begin(), schema.arguments().end(),
                               [](const c10::Argument& one) { return one.name() == "generator"; });
  return note;
}

/// Of autocast on the CPU, by operation.
const std::map<std::string, CastPolicy>& cast_policies() {
  static const std::map<std::string, CastPolicy> policies = [] {
    std::map<std::string, CastPolicy> all;
    for (const AutocastEntry& entry : autocast_policy(torch::kCPU)) all[entry.op] = entry.policy;
    return all;
  }();
  return policies;
}

}  // namespace

/// Kept by the address of the schema, which lives as long as its operation.
const OperationNote& operation_note(const c10::OperatorHandle& op) {
  thread_local std::unordered_map<const c10::FunctionSchema*, OperationNote> notes;
  const c10::FunctionSchema& schema = op.schema();
  const auto known = notes.find(&schema);
  if (known != notes.end() && known->second.name == schema.name()) return known->second;
  OperationNote note = note_of_schema(schema);
  register_by_numbers(op);
  const std::string& overload = schema.overload_name();
  const auto cast = cast_policies().find(note.name + (overload.empty() ? "" : "." + overload));
  if (cast != cast_policies().end() && !note.is_own) note.cast = cast->second;
  return notes[&schema] = std::move(note);
}

void prepare_notes() { cast_policies(); }

}  // namespace halftone
