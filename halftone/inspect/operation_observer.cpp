// SPDX-License-Identifier: Apache-2.0
// at::RecordFunction has a member that only builds without NDEBUG know, and the LibTorch that makes
// these objects is a release build: this file is compiled as one, whatever the others are, and
// alone reads them.
#undef NDEBUG
#define NDEBUG
#include <ATen/Parallel.h>
#include <ATen/SequenceNumber.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/function_schema.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "halftone/inspect/operation_observer_impl.h"
#include "halftone/inspect/wider_operation_impl.h"

namespace halftone {
namespace {

// LibTorch's callbacks carry no pointer.
std::atomic<std::shared_ptr<OperationObserver>> current_observer;

struct ReportedCall : at::ObserverContext {
  explicit ReportedCall(std::shared_ptr<OperationObserver> seer) : observer(std::move(seer)) {}
  std::shared_ptr<OperationObserver> observer;
  OperationCall call;
};

OperationTensors tensors_of(const c10::IValue& value) {
  return {.tensors = tensors_in(value), .is_list = value.isList()};
}

/// In place, without a look at what stood there.
bool overwrites(std::string_view operation) {
  return operation == "aten::copy_" || operation == "aten::fill_" || operation == "aten::zero_";
}

/// A matmul that is added to 0 times what stood there, its first argument.
bool discards_target(const OperationCall& call) {
  constexpr std::size_t kBeta = 3;
  const std::string_view name = call.name;
  const bool adds = name == "aten::addmm_" || name == "aten::baddbmm_" || name == "aten::addmv_" ||
                    name.ends_with("::gemm32_");
  return adds && call.arguments.size() > kBeta && call.arguments[kBeta].isScalar() &&
         call.arguments[kBeta].toScalar().toDouble() == 0.0;
}

/// What an operation's schema says.
struct SchemaNote {
  struct Argument {
    bool is_read = true;
    bool is_written = false;
  };
  std::string name, overload;
  std::vector<Argument> arguments;
  bool is_view = false;
  bool is_composite = false;
};

bool is_composite(const c10::FunctionSchema& schema) {
  const auto operation = c10::Dispatcher::singleton().findSchema(schema.operator_name());
  return schema.name().starts_with("aten::") && operation &&
         operation->hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd);
}

/// Whether an operation in place writes sizes and strides, and no element.
bool reshapes_in_place(const std::string& name) {
  return name == "aten::as_strided_" || name == "aten::squeeze_" || name == "aten::unsqueeze_" ||
         name == "aten::transpose_" || name == "aten::t_" || name == "aten::swapaxes_" ||
         name == "aten::swapdims_" || name == "aten::detach_";
}

SchemaNote note_of(const c10::FunctionSchema& schema) {
  SchemaNote note{.name = schema.name(), .overload = schema.overload_name()};
  for (const c10::Argument& argument : schema.arguments()) {
    const bool is_written = argument.alias_info() != nullptr && argument.alias_info()->isWrite();
    const bool is_read = !argument.is_out() && !(is_written && overwrites(note.name));
    note.arguments.push_back({is_read, is_written});
  }
  const auto is_alias = [](const c10::Argument& result) {
    return result.alias_info() != nullptr && !result.alias_info()->isWrite();
  };
  const std::vector<c10::Argument>& results = schema.returns();
  note.is_view = reshapes_in_place(note.name) ||
                 (!results.empty() && std::all_of(results.begin(), results.end(), is_alias));
  note.is_composite = is_composite(schema);
  return note;
}

/// Null where the operation has no schema. LibTorch gives a schema away as a copy, which costs more
/// than many an operation, so a thread keeps what it says, by the address of the schema's name.
const SchemaNote* schema_of(const at::RecordFunction& function) {
  thread_local std::unordered_map<const char*, SchemaNote> notes;
  const auto known = notes.find(function.name());
  if (known != notes.end() && known->second.name == function.name() &&
      known->second.overload == function.overload_name())
    return &known->second;
  const std::optional<c10::FunctionSchema> schema = function.operator_schema();
  if (!schema) return nullptr;
  return &(notes[function.name()] = note_of(*schema));
}

void add_inputs(const at::RecordFunction& function, OperationCall& call) {
  const SchemaNote* const schema = schema_of(function);
  if (schema != nullptr) {
    call.overload = schema->overload;
    call.is_view = schema->is_view;
    call.is_composite = schema->is_composite;
  }
  call.arguments.assign(function.inputs().begin(), function.inputs().end());
  for (std::size_t i = 0; i < function.inputs().size(); ++i) {
    OperationTensors input = tensors_of(function.inputs()[i]);
    if (schema != nullptr && i < schema->arguments.size()) {
      input.is_read = schema->arguments[i].is_read;
      input.is_written = schema->arguments[i].is_written;
    }
    call.inputs.push_back(std::move(input));
  }
  if (discards_target(call)) call.inputs.front().is_read = false;
}

std::unique_ptr<at::ObserverContext> on_begin(const at::RecordFunction& function) {
  const auto now = std::chrono::steady_clock::now();
  // A kernel's own threads may call operations for their part of it. Where an observer is computing
  // itself, they would wait for each other.
  if (at::in_parallel_region()) return nullptr;
  const std::shared_ptr<OperationObserver> observer = current_observer.load();
  if (!observer) return nullptr;
  const at::DisableRecordFunctionGuard unobserved;
  const at::NoGradGuard no_grad;
  auto reported = std::make_unique<ReportedCall>(observer);
  OperationCall& call = reported->call;
  call.name = function.name();
  call.is_backward = function.scope() == at::RecordScope::BACKWARD_FUNCTION;
  call.sequence = function.seqNr();
  call.reported = now;
  if (!call.is_backward) add_inputs(function, call);
  observer->begin(call);
  return reported;
}

void on_end(const at::RecordFunction& function, at::ObserverContext* context) {
  const auto now = std::chrono::steady_clock::now();
  auto* const reported = static_cast<ReportedCall*>(context);
  if (reported == nullptr) return;
  const at::DisableRecordFunctionGuard unobserved;
  const at::NoGradGuard no_grad;
  OperationCall& call = reported->call;
  call.reported = now;
  if (!call.is_backward) {
    call.is_recorded = call.sequence >= 0 &&
                       static_cast<std::int64_t>(at::sequence_number::peek()) > call.sequence;
    for (const c10::IValue& value : function.outputs()) call.outputs.push_back(tensors_of(value));
  }
  reported->observer->end(call);
}

}  // namespace

bool is_in_backward() { return torch::autograd::get_current_graph_task_id() != -1; }

Observation::Observation(std::shared_ptr<OperationObserver> observer)
    : before_(current_observer.exchange(std::move(observer))) {
  if (before_) return;  // LibTorch calls us already
  handle_ = at::addGlobalCallback(
      at::RecordFunctionCallback(on_begin, on_end)
          .needsInputs(true)
          .needsOutputs(true)
          .scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION}));
}

Observation::~Observation() {
  if (!before_) at::removeCallback(handle_);
  current_observer.store(std::move(before_));
}

Unobserved::Unobserved() : before_(at::isRecordFunctionEnabled()) {
  at::enableRecordFunction(false);
}
Unobserved::~Unobserved() { at::enableRecordFunction(before_); }

}  // namespace halftone
