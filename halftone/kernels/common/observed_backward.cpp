// SPDX-License-Identifier: Apache-2.0
#include <ATen/record_function.h>

#include <optional>
#include <utility>

#include "halftone/kernels/common/observed_backward_impl.h"

namespace halftone {

struct ObservedBackward::Record {
  explicit Record(at::StepCallbacks&& callbacks) : function(std::move(callbacks)) {}
  at::RecordFunction function;
};

void ObservedBackward::Close::operator()(Record* record) const { delete record; }

ObservedBackward::ObservedBackward(const char* name, std::uint64_t sequence) {
  std::optional<at::StepCallbacks> callbacks =
      at::getStepCallbacksUnlessEmpty(at::RecordScope::BACKWARD_FUNCTION);
  if (!callbacks) return;
  record_.reset(new Record(std::move(*callbacks)));
  record_->function.before(name, static_cast<std::int64_t>(sequence));
}

}  // namespace halftone
