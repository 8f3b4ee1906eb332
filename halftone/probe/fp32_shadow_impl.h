// SPDX-License-Identifier: Apache-2.0
// Computes operations of 16-bit and 8-bit floats once more in fp32, from the same inputs.
#pragma once

#include <ATen/core/ivalue.h>

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "halftone/inspect/operation_observer_impl.h"
#include "halftone/probe/number_difference_impl.h"

namespace halftone {

/// Left out are operations that draw random numbers, give views of their inputs, move or fill in
/// numbers, consist of other operations (which are taken one by one), or are not LibTorch's own.
/// Operations in place are computed from copies. Not thread-safe.
class Fp32Shadow {
 public:
  /// What an operation works on, from before it.
  struct Arguments {
    bool is_wanted = false;
    std::vector<c10::IValue> values;
  };

  struct Key {
    std::string operation;
    bool is_backward = false;
    torch::ScalarType dtype = torch::kHalf;
    auto operator<=>(const Key&) const = default;
  };
  struct Entry {
    std::int64_t calls = 0;
    NumberDifference difference;
  };

  /// When an operation begins that no wanted one is around.
  Arguments begin(const OperationCall& call);
  /// When it has ended.
  void end(const OperationCall& call, const Arguments& arguments, bool is_backward);

  const std::map<Key, Entry>& entries() const { return entries_; }
  /// Those that failed in fp32.
  std::vector<std::string> failed() const;

 private:
  using Overload = std::pair<std::string, std::string>;
  bool may_run_again(const OperationCall& call);

  std::map<Key, Entry> entries_;
  std::map<Overload, bool> may_run_again_;
  std::set<Overload> failed_;
};

}  // namespace halftone
