// SPDX-License-Identifier: Apache-2.0
// at::RecordFunction has a member that only builds without NDEBUG know, and the LibTorch that makes
// these objects is a release build: this file is compiled as one, whatever the others are, and
// alone reads them.
#undef NDEBUG
#define NDEBUG
#include <ATen/SequenceNumber.h>
#include <ATen/core/function_schema.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/graph_task.h>

#include <atomic>
#include <optional>
#include <string_view>
#include <utility>

#include "halftone/inspect/operation_observer_impl.h"

namespace halftone {
namespace {

// LibTorch's callbacks carry no pointer.
std::atomic<std::shared_ptr<OperationObserver>> current_observer;

struct ReportedCall : at::ObserverContext {
  explicit ReportedCall(const OperationObserver* seer) : observer(seer) {}
  const OperationObserver* observer;
  OperationCall call;
};

void add_tensors(const c10::IValue& value, std::vector<torch::Tensor>& tensors) {
  if (value.isTensor()) {
    tensors.push_back(value.toTensor());
  } else if (value.isTensorList()) {
    for (const torch::Tensor& tensor : value.toTensorVector()) tensors.push_back(tensor);
  } else if (value.isList()) {
    for (const c10::IValue& element : value.toListRef()) add_tensors(element, tensors);
  }
}

OperationTensors tensors_of(const c10::IValue& value) {
  OperationTensors found{.is_list = value.isList()};
  add_tensors(value, found.tensors);
  return found;
}

/// In place, without a look at what stood there.
bool overwrites(std::string_view operation) {
  return operation == "aten::copy_" || operation == "aten::fill_" || operation == "aten::zero_";
}

void add_inputs(const at::RecordFunction& function, OperationCall& call) {
  const std::optional<c10::FunctionSchema> schema = function.operator_schema();
  for (std::size_t i = 0; i < function.inputs().size(); ++i) {
    OperationTensors input = tensors_of(function.inputs()[i]);
    if (schema && i < schema->arguments().size()) {
      const c10::Argument& argument = schema->arguments()[i];
      input.is_written = argument.alias_info() != nullptr && argument.alias_info()->isWrite();
      input.is_read = !argument.is_out() && !(input.is_written && overwrites(call.name));
    }
    call.inputs.push_back(std::move(input));
  }
}

std::unique_ptr<at::ObserverContext> on_begin(const at::RecordFunction& function) {
  const std::shared_ptr<OperationObserver> observer = current_observer.load();
  if (!observer) return nullptr;
  const at::DisableRecordFunctionGuard unobserved;
  const at::NoGradGuard no_grad;
  auto reported = std::make_unique<ReportedCall>(observer.get());
  OperationCall& call = reported->call;
  call.name = function.name();
  call.is_backward = function.scope() == at::RecordScope::BACKWARD_FUNCTION;
  call.sequence = function.seqNr();
  if (!call.is_backward) add_inputs(function, call);
  observer->begin(call);
  return reported;
}

void on_end(const at::RecordFunction& function, at::ObserverContext* context) {
  const std::shared_ptr<OperationObserver> observer = current_observer.load();
  auto* const reported = static_cast<ReportedCall*>(context);
  if (!observer || reported == nullptr || reported->observer != observer.get()) return;
  const at::DisableRecordFunctionGuard unobserved;
  const at::NoGradGuard no_grad;
  OperationCall& call = reported->call;
  if (!call.is_backward) {
    call.is_recorded = call.sequence >= 0 &&
                       static_cast<std::int64_t>(at::sequence_number::peek()) > call.sequence;
    for (const c10::IValue& value : function.outputs()) call.outputs.push_back(tensors_of(value));
  }
  observer->end(call);
}

}  // namespace

bool is_in_backward() { return torch::autograd::get_current_graph_task_id() != -1; }

Observation::Observation(std::shared_ptr<OperationObserver> observer) {
  current_observer.store(std::move(observer));
  handle_ = at::addGlobalCallback(
      at::RecordFunctionCallback(on_begin, on_end)
          .needsInputs(true)
          .needsOutputs(true)
          .scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION}));
}

Observation::~Observation() {
  at::removeCallback(handle_);
  current_observer.store(nullptr);
}

Unobserved::Unobserved() : before_(at::isRecordFunctionEnabled()) {
  at::enableRecordFunction(false);
}
Unobserved::~Unobserved() { at::enableRecordFunction(before_); }

}  // namespace halftone
