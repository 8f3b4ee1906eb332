// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/record_function.h>
#include <torch/types.h>

#include <utility>
#include <vector>

namespace halftone {

/// Makes a kernel of ours visible to whatever observes operations (profilers, the search for the
/// first non-finite value), as those of ATen are, while it lives.
class ObservedOperation {
 public:
  ObservedOperation(const char* name, std::vector<c10::IValue> inputs)
      : inputs_(std::move(inputs)), record_(at::RecordScope::FUNCTION) {
    if (record_.isActive()) record_.before(name, &inputs_);
  }

  void set_output(const torch::Tensor& output) { set_outputs({output}); }
  void set_outputs(std::vector<c10::IValue> outputs) {
    if (record_.needsOutputs()) record_.setOutputs(std::move(outputs));
  }

 private:
  std::vector<c10::IValue> inputs_;
  at::RecordFunction record_;
};

}  // namespace halftone
