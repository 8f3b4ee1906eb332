// SPDX-License-Identifier: Apache-2.0
// Every tensor that is found to hold inf or nan gets a label: the origin of what it holds. An
// operation hands the label of a non-finite input on to its outputs, or starts a new one.
#include "halftone/inspect/non_finite_finder.h"

#include <ATen/core/function_schema.h>
#include <ATen/record_function.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "halftone/core/error.h"

namespace halftone {
namespace {

using Kind = NonFiniteOrigin::Kind;

/// An operation of the forward pass that autograd remembers by its sequence number.
struct Site {
  std::string operation;
  std::string parameter;
  bool reads_parameter = false;
};

struct Label {
  std::int64_t order = 0;  // of appearance
  NonFiniteOrigin origin;
};

struct Inputs : at::ObserverContext {
  std::vector<torch::Tensor> tensors;
};

// The step of autograd that this thread is in: its name and sequence number.
thread_local std::vector<std::pair<std::string, std::int64_t>> open_nodes;

void add_tensors(const c10::IValue& value, std::vector<torch::Tensor>& tensors) {
  if (value.isTensor()) {
    tensors.push_back(value.toTensor());
  } else if (value.isTensorList()) {
    for (const torch::Tensor& tensor : value.toTensorVector()) tensors.push_back(tensor);
  } else if (value.isList()) {
    for (const c10::IValue& element : value.toListRef()) add_tensors(element, tensors);
  }
}

bool readable(const torch::Tensor& tensor) {
  return tensor.defined() && tensor.layout() == torch::kStrided && tensor.has_storage() &&
         !tensor.is_meta() && (tensor.is_floating_point() || tensor.is_complex()) &&
         tensor.numel() > 0;
}

bool non_finite(const torch::Tensor& tensor) {
  return readable(tensor) && !tensor.isfinite().all().item<bool>();
}

// What masks are made of: -inf and nothing worse.
bool only_negative_inf(const torch::Tensor& tensor) {
  return tensor.is_floating_point() && (tensor.isfinite() | tensor.isneginf()).all().item<bool>();
}

// Gives memory without writing to it: what stands there means nothing.
bool is_allocation(std::string_view operation) {
  return operation.find("empty") != std::string_view::npos || operation.starts_with("aten::resize");
}

class Watch {
 public:
  explicit Watch(const torch::nn::Module& module) {
    for (const auto& item : module.named_parameters()) add_memory(item.value(), item.key());
  }

  std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction& call) {
    if (call.scope() == at::RecordScope::BACKWARD_FUNCTION) {
      open_nodes.emplace_back(call.name(), call.seqNr());
      return nullptr;
    }
    auto inputs = std::make_unique<Inputs>();
    const std::optional<c10::FunctionSchema> schema = call.operator_schema();
    for (std::size_t i = 0; i < call.inputs().size(); ++i) {
      const bool only_written = schema && schema->arguments().at(i).is_out();
      if (!only_written) add_tensors(call.inputs()[i], inputs->tensors);
    }
    if (!in_backward_) note_site(call, inputs->tensors);
    return inputs;
  }

  void end(const at::RecordFunction& call, at::ObserverContext* context) {
    if (call.scope() == at::RecordScope::BACKWARD_FUNCTION) {
      if (!open_nodes.empty()) open_nodes.pop_back();
      return;
    }
    if (context == nullptr) return;  // it began before the search
    const auto& inputs = static_cast<const Inputs&>(*context).tensors;
    std::vector<torch::Tensor> outputs;
    for (const c10::IValue& value : call.outputs()) add_tensors(value, outputs);
    const std::lock_guard lock(mutex_);
    const std::string_view name = call.name();
    if (name == "aten::_to_copy") follow_cast(inputs, outputs);
    if (is_allocation(name)) return;
    for (const torch::Tensor& output : outputs)
      if (non_finite(output)) set_label(output, label_for(call, inputs, output));
  }

  /// From here on autograd works, also between its nodes, where it adds gradients up.
  void begin_backward() { in_backward_ = true; }

  /// Nothing for a finite tensor.
  std::optional<Label> label_of(const torch::Tensor& tensor) const {
    if (!non_finite(tensor)) return std::nullopt;
    const auto found = labels_.find(tensor.storage().unsafeGetStorageImpl());
    if (found != labels_.end()) return found->second.second;
    return Label{.origin = {.kind = Kind::kInput, .operation = "the loss"}};
  }

 private:
  void add_memory(const torch::Tensor& tensor, const std::string& name) {
    if (tensor.numel() == 0) return;
    const auto* begin = static_cast<const char*>(tensor.const_data_ptr());
    memory_[begin] = {begin + tensor.nbytes(), name};
  }

  // Autocast's copy of a parameter counts as the parameter. It is kept, so that nothing else comes
  // to stand at its address.
  void follow_cast(const std::vector<torch::Tensor>& inputs,
                   const std::vector<torch::Tensor>& outputs) {
    if (inputs.empty() || outputs.empty() || !readable(outputs[0])) return;
    const std::string name = parameter_at(inputs[0]);
    if (name.empty()) return;
    casts_.push_back(outputs[0]);
    add_memory(outputs[0], name);
  }

  std::string parameter_at(const torch::Tensor& tensor) const {
    if (!readable(tensor)) return "";
    const auto* address = static_cast<const char*>(tensor.const_data_ptr());
    auto found = memory_.upper_bound(address);
    if (found == memory_.begin()) return "";
    --found;
    return address < found->second.first ? found->second.second : "";
  }

  Site site_of(const std::string& operation, const std::vector<torch::Tensor>& inputs) const {
    for (const torch::Tensor& input : inputs)
      if (const std::string name = parameter_at(input); !name.empty())
        return {operation, name, true};
    return {operation, last_parameter_, false};
  }

  void note_site(const at::RecordFunction& call, const std::vector<torch::Tensor>& inputs) {
    const std::lock_guard lock(mutex_);
    Site site = site_of(call.name(), inputs);
    if (site.reads_parameter) last_parameter_ = site.parameter;
    // Of the operations with one number the last, innermost one is what autograd differentiates.
    if (call.seqNr() >= 0) sites_[call.seqNr()] = std::move(site);
  }

  void set_label(const torch::Tensor& tensor, Label label) {
    labels_.insert_or_assign(tensor.storage().unsafeGetStorageImpl(),
                             std::pair(tensor.storage().getWeakStorageImpl(), std::move(label)));
  }

  Label label_for(const at::RecordFunction& call, const std::vector<torch::Tensor>& inputs,
                  const torch::Tensor& output) {
    const auto* storage = output.storage().unsafeGetStorageImpl();
    std::optional<std::pair<bool, Label>> best;  // the first; what is like a mask comes last
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (!non_finite(inputs[i])) continue;
      const bool in_place = std::string_view(call.name()).ends_with('_');
      if (in_place && inputs[i].storage().unsafeGetStorageImpl() == storage) continue;
      const auto known = labels_.find(inputs[i].storage().unsafeGetStorageImpl());
      const Label label =
          known != labels_.end() ? known->second.second : new_label(call, inputs, Kind::kInput);
      const bool mask = only_negative_inf(inputs[i]);
      if (!best || std::pair(mask, label.order) < std::pair(best->first, best->second.order))
        best = {mask, label};
    }
    if (best) return best->second;
    // An operation in place, or one that was made of others: they have said it already.
    if (const auto known = labels_.find(storage); known != labels_.end())
      return known->second.second;
    return new_label(call, inputs, in_backward_ ? Kind::kBackward : Kind::kForward);
  }

  Label new_label(const at::RecordFunction& call, const std::vector<torch::Tensor>& inputs,
                  Kind kind) {
    Label label{.order = ++order_, .origin = {.kind = kind, .operation = call.name()}};
    Site site = in_backward_ ? Site{} : site_of(call.name(), inputs);
    if (in_backward_ && !open_nodes.empty()) {
      const auto& [node, sequence] = open_nodes.back();
      label.origin.node = node;
      const auto found = sites_.find(sequence);
      if (found != sites_.end()) site = found->second;
      label.origin.forward = site.operation;
    }
    label.origin.parameter = site.parameter;
    label.origin.reads_parameter = site.reads_parameter;
    return label;
  }

  using Labelled = std::pair<c10::weak_intrusive_ptr<c10::StorageImpl>, Label>;

  std::mutex mutex_;
  std::atomic<bool> in_backward_ = false;
  std::int64_t order_ = 0;
  std::map<const char*, std::pair<const char*, std::string>> memory_;  // begin -> end, parameter
  std::vector<torch::Tensor> casts_;
  std::string last_parameter_;
  std::map<std::int64_t, Site> sites_;
  std::unordered_map<const c10::StorageImpl*, Labelled> labels_;  // the weak pointer keeps the key
};

// Of the search that runs; LibTorch's callbacks carry no pointer. Shared, since another thread may
// be in the middle of an operation when the search ends.
std::atomic<std::shared_ptr<Watch>> current_watch;

std::unique_ptr<at::ObserverContext> on_begin(const at::RecordFunction& call) {
  const std::shared_ptr<Watch> watch = current_watch.load();
  if (!watch) return nullptr;
  const at::DisableRecordFunctionGuard unobserved;
  const torch::NoGradGuard no_grad;
  return watch->begin(call);
}

void on_end(const at::RecordFunction& call, at::ObserverContext* context) {
  const std::shared_ptr<Watch> watch = current_watch.load();
  if (!watch) return;
  const at::DisableRecordFunctionGuard unobserved;
  const torch::NoGradGuard no_grad;
  watch->end(call, context);
}

// Observes every operation for as long as it lives.
class Observation {
 public:
  explicit Observation(std::shared_ptr<Watch> watch) {
    current_watch.store(std::move(watch));
    handle_ = at::addGlobalCallback(
        at::RecordFunctionCallback(on_begin, on_end)
            .needsInputs(true)
            .needsOutputs(true)
            .scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION}));
  }
  ~Observation() {
    at::removeCallback(handle_);
    current_watch.store(nullptr);
    open_nodes.clear();
  }
  Observation(const Observation&) = delete;
  Observation& operator=(const Observation&) = delete;

 private:
  at::CallbackHandle handle_;
};

std::optional<NonFiniteOrigin> bad_parameter(const torch::nn::Module& module) {
  for (const auto& item : module.named_parameters())
    if (non_finite(item.value()))
      return NonFiniteOrigin{.kind = Kind::kParameter, .parameter = item.key()};
  return std::nullopt;
}

// The first origin among the gradients', with the name of the first parameter that shows it.
std::optional<NonFiniteOrigin> first_of(const Watch& watched, const std::vector<std::string>& names,
                                        const std::vector<torch::Tensor>& gradients) {
  std::optional<Label> first;
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    std::optional<Label> label = watched.label_of(gradients[i]);
    if (!label || (first && first->order <= label->order)) continue;
    first = std::move(label);
    first->origin.gradient = names[i];
  }
  return first ? std::optional(first->origin) : std::nullopt;
}

}  // namespace

std::optional<NonFiniteOrigin> find_first_non_finite(const torch::nn::Module& module,
                                                     const std::function<torch::Tensor()>& loss) {
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  const torch::AutoGradMode with_grad(true);
  if (auto origin = bad_parameter(module)) return origin;
  std::vector<std::string> names;
  std::vector<torch::Tensor> parameters;
  for (const auto& item : module.named_parameters()) {
    if (!item.value().requires_grad()) continue;
    names.push_back(item.key());
    parameters.push_back(item.value());
  }
  const auto watch = std::make_shared<Watch>(module);
  std::vector<torch::Tensor> gradients;
  {
    const Observation observation(watch);
    const torch::Tensor result = loss();
    HALFTONE_CHECK(result.defined() && result.numel() == 1,
                   "[find_first_non_finite] expected the function to return the loss, one element");
    const at::DisableRecordFunctionGuard unobserved;
    if (const auto label = watch->label_of(result)) return label->origin;
    const at::RecordFunctionGuard observed(/*is_enabled=*/true);
    watch->begin_backward();
    gradients = torch::autograd::grad({result.reshape({})}, parameters, {}, /*retain_graph=*/{},
                                      /*create_graph=*/false, /*allow_unused=*/true);
  }
  return first_of(*watch, names, gradients);
}

std::string to_string(const NonFiniteOrigin& origin) {
  if (origin.kind == Kind::kParameter)
    return fmt::format("the parameter '{}' is not finite itself", origin.parameter);
  std::string where;
  if (!origin.parameter.empty())
    where = fmt::format("{} '{}'", origin.reads_parameter ? " with" : ", after", origin.parameter);
  if (origin.kind == Kind::kInput)
    return fmt::format("{}{} reads a value that is not finite and that no operation made",
                       origin.operation, where);
  if (origin.kind == Kind::kForward)
    return fmt::format("{}{} makes the first non-finite value of the forward pass",
                       origin.operation, where);
  return fmt::format(
      "{}{}{}{} makes the first non-finite gradient{}", origin.operation,
      origin.node.empty() ? "" : " in " + origin.node,
      origin.forward.empty() ? "" : ", the backward pass of " + origin.forward, where,
      origin.gradient.empty() ? "" : fmt::format("; it reaches that of '{}'", origin.gradient));
}

}  // namespace halftone
