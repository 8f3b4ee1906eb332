// SPDX-License-Identifier: Apache-2.0
// Counts what a step on the device meta computes.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "halftone/inspect/operation_observer_impl.h"
#include "halftone/kernels/gemm/matmul_format_scope.h"
#include "halftone/plan/step_work.h"

namespace halftone {

/// While it lives, the matmuls of this thread's layers are counted, and whoever sees the operations
/// of LibTorch's dispatcher (without_data_mode_impl.h) reports them to it. One at a time in a
/// thread.
class WorkTally {
 public:
  WorkTally();
  ~WorkTally();
  WorkTally(const WorkTally&) = delete;
  WorkTally& operator=(const WorkTally&) = delete;

  /// This thread's, or null.
  static WorkTally* current();

  /// One of the three matmuls of a layer.
  void add_product(const LayerProduct& product);
  /// An operation that has ended. `bytes`: what it has read and written; `functions`: values of
  /// exp() and its like that it has computed.
  void add_operation(const OperationCall& call, double bytes, double functions);

  /// What was counted so far. An operation that others of which it consists were counted for is not
  /// counted itself, so that their number tells whether to.
  std::int64_t count() const { return count_; }
  /// The same of matmuls and of this library's operations alone.
  std::int64_t own_count() const { return own_count_; }

  /// In its scope nothing is counted: what it does is counted as a whole.
  class Part {
   public:
    explicit Part(WorkTally& tally) : tally_(tally) { ++tally_.parts_; }
    ~Part() { --tally_.parts_; }
    Part(const Part&) = delete;
    Part& operator=(const Part&) = delete;

   private:
    WorkTally& tally_;
  };
  bool is_in_part() const { return parts_ > 0; }

  const StepWork& work() const { return work_; }
  void reset() { work_ = {}; }

 private:
  MatmulFormatScope counted_;
  StepWork work_;
  std::int64_t count_ = 0;
  std::int64_t own_count_ = 0;
  int parts_ = 0;
};

}  // namespace halftone
