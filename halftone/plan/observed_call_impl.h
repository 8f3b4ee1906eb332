// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "halftone/plan/operation_note_impl.h"
#include "halftone/plan/values_without_data_impl.h"
#include "halftone/plan/work_tally_impl.h"

namespace halftone {

/// One operation: what is known of it before it runs and is needed when it has, to tell `tally`
/// what it computed, read and wrote. Tally and note must live as long.
class ObservedCall {
 public:
  ObservedCall(WorkTally& tally, const OperationNote& note, const OperationValues& arguments);

  void end(const OperationValues& results);

 private:
  /// What one of this library's operations does is its own affair, unless that is a matmul.
  bool is_made_of_counted() const {
    return note_.is_own ? tally_.own_count() != own_count_ : tally_.count() != count_;
  }

  WorkTally& tally_;
  const OperationNote& note_;
  std::int64_t count_;
  std::int64_t own_count_;
  double first_ = 0, others_ = 0, written_ = 0, written_numbers_ = 0;
  std::vector<const c10::StorageImpl*> places_;
  OperationCall call_;
};

}  // namespace halftone
