// SPDX-License-Identifier: Apache-2.0
// Makes kernels of ours visible to whatever observes LibTorch's operations (profilers, the search
// for the first non-finite value), as those of ATen are. What calls foreign code on tensors' memory
// (oneDNN, FBGEMM, loops of our own) is observed in one place: where it is called. What calls an
// autograd function is observed around apply(), so that observers find the operation by its node.
#pragma once

#include <ATen/core/ivalue.h>
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace halftone {

/// One operation, from the constructor on until it is destroyed. Costs a look at a thread-local
/// where nobody observes.
class ObservedOperation {
 public:
  /// `inputs` are tensors, which may be undefined, and lists of tensors (at::TensorList). What is
  /// written to as well belongs to them and to the outputs.
  template <class... Inputs>
  explicit ObservedOperation(const char* name, const Inputs&... inputs) : record_(open()) {
    if (record_) begin(name, {c10::IValue(inputs)...});
  }

  /// What it made or wrote to, once that is written. A list of as many tensors as a list among the
  /// inputs has belongs to that list, element by element.
  template <class... Outputs>
  void set_outputs(const Outputs&... outputs) {
    if (record_) end({c10::IValue(outputs)...});
  }

  /// Whether somebody observes it.
  explicit operator bool() const { return record_ != nullptr; }

 private:
  struct Record;
  struct Close {
    void operator()(Record* record) const;
  };
  static std::unique_ptr<Record, Close> open();
  void begin(const char* name, std::vector<c10::IValue> inputs);
  void end(std::vector<c10::IValue> outputs);

  std::unique_ptr<Record, Close> record_;
  friend class ObservedBackward;
};

/// While it lives, what this thread computes belongs to the step of autograd with that sequence
/// number, wherever it is computed: for gradients that are computed ahead of their node's turn.
class ObservedBackward {
 public:
  ObservedBackward(const char* name, std::uint64_t sequence);

 private:
  std::unique_ptr<ObservedOperation::Record, ObservedOperation::Close> record_;
};

}  // namespace halftone
