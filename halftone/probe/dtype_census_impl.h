// SPDX-License-Identifier: Apache-2.0
// In which dtypes operations compute.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>

#include "halftone/inspect/operation_observer_impl.h"

namespace halftone {

/// Not thread-safe.
class DtypeCensus {
 public:
  /// An operation that has ended: by the first floating result, else by the first floating input;
  /// others are not counted.
  void count(const OperationCall& call);

  /// Operation, dtype in this project's words -> calls.
  std::map<std::string, std::map<std::string, std::int64_t>> counts() const;

 private:
  std::unordered_map<std::string, std::unordered_map<c10::ScalarType, std::int64_t>> counts_;
};

/// dtype_name(), with the 8-bit floats and fp64.
std::string probe_dtype_name(c10::ScalarType dtype);

}  // namespace halftone
