// SPDX-License-Identifier: Apache-2.0
// at::RecordFunction has a member that only builds without NDEBUG know, and the LibTorch that makes
// and reads these objects is a release build: this file is compiled as one, whatever the others
// are, and alone touches the type.
#undef NDEBUG
#define NDEBUG
#include <ATen/SequenceNumber.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>

#include <optional>
#include <utility>

#include "halftone/kernels/common/recorded_op_impl.h"

namespace halftone {

struct ObservedOperation::Record {
  explicit Record(at::StepCallbacks&& callbacks) : function(std::move(callbacks)) {}
  std::vector<c10::IValue> inputs;
  at::RecordFunction function;
};

void ObservedOperation::Close::operator()(Record* record) const { delete record; }

std::unique_ptr<ObservedOperation::Record, ObservedOperation::Close> ObservedOperation::open() {
  std::optional<at::StepCallbacks> callbacks =
      at::getStepCallbacksUnlessEmpty(at::RecordScope::FUNCTION);
  return {callbacks ? new Record(std::move(*callbacks)) : nullptr, Close()};
}

// The number that LibTorch's dispatcher would give: that of the node which is made next.
void ObservedOperation::begin(const char* name, std::vector<c10::IValue> inputs) {
  record_->inputs = std::move(inputs);
  const std::int64_t sequence =
      at::GradMode::is_enabled() ? static_cast<std::int64_t>(at::sequence_number::peek()) : -1;
  record_->function.before(name, &record_->inputs, sequence);
}

void ObservedOperation::end(std::vector<c10::IValue> outputs) {
  if (record_->function.needsOutputs()) record_->function.setOutputs(std::move(outputs));
}

ObservedBackward::ObservedBackward(const char* name, std::uint64_t sequence) {
  std::optional<at::StepCallbacks> callbacks =
      at::getStepCallbacksUnlessEmpty(at::RecordScope::BACKWARD_FUNCTION);
  if (!callbacks) return;
  record_.reset(new ObservedOperation::Record(std::move(*callbacks)));
  record_->function.before(name, static_cast<std::int64_t>(sequence));
}

}  // namespace halftone
