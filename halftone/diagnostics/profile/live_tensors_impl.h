// SPDX-License-Identifier: Apache-2.0
// Which of the tensors that operations made are still in memory: after a forward pass, what the
// backward pass waits for.
#pragma once

#include <torch/types.h>

#include <cstddef>
#include <string>
#include <unordered_map>
#include <vector>

#include "halftone/inspect/operation_observer_impl.h"

namespace halftone {

/// Memory that an operation made and that is in use.
struct LiveTensor {
  std::string operation;  // the outermost one that it came out of
  std::string module;
  torch::ScalarType dtype = torch::kFloat;
  double bytes = 0;
};

/// Holds no memory itself. Not thread-safe.
class LiveTensors {
 public:
  /// Call it when an operation begins, and hand the number to made_by() when it ends.
  std::size_t mark() const { return next_; }
  /// Notes the results of `call` that lie in memory of their own. What operations inside it made
  /// since `mark` is this one's. `is_kept_elsewhere`: whoever records the step holds the result.
  void made_by(const OperationCall& call, const std::string& module, std::size_t mark,
               bool is_kept_elsewhere);

  std::vector<LiveTensor> alive() const;

 private:
  struct Entry {
    LiveTensor tensor;
    std::size_t order = 0;
    bool is_kept_elsewhere = false;
    c10::weak_intrusive_ptr<c10::StorageImpl> storage;
    c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl> first;
  };

  std::size_t next_ = 0;
  std::unordered_map<const c10::StorageImpl*, Entry> entries_;
};

}  // namespace halftone
