// SPDX-License-Identifier: Apache-2.0
// What a plan knows of LibTorch's operations by their names and schemas.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <cstddef>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "halftone/autocast/cast_policy.h"

namespace halftone {

bool ends_in_any(std::string_view name, std::initializer_list<std::string_view> endings);

/// What the schema of an operation says.
struct OperationNote {
  std::string name;
  std::size_t arguments = 0;
  std::size_t results = 0;
  std::optional<std::size_t> device;  // the argument that names one
  bool is_table = false;
  bool is_own = false;
  bool multiplies = false;
  bool is_uncounted = false;
  bool looks_up = false;
  bool computes_functions = false;
  bool overwrites = false;
  bool is_view = false;
  std::vector<bool> is_written;  // by argument
  bool is_random = false;
  std::optional<CastPolicy> cast;  // by autocast on the CPU
};

/// That of `op`, which gets a kernel for meta (register_by_numbers()) where it needs one. Kept in
/// the thread.
const OperationNote& operation_note(const c10::OperatorHandle& op);

/// Finds out what autocast does on the CPU, once. Call it first outside a WithoutDataMode.
void prepare_notes();

}  // namespace halftone
