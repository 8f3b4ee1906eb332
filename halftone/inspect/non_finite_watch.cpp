// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>
#include <string_view>

#include "halftone/inspect/non_finite_watch_impl.h"

namespace halftone {
namespace {

using Kind = NonFiniteOrigin::Kind;

bool is_non_finite(const torch::Tensor& tensor) {
  return is_readable(tensor) && !tensor.isfinite().all().item<bool>();
}

/// What masks are made of: -inf and nothing worse.
bool has_only_negative_inf(const torch::Tensor& tensor) {
  if (!tensor.is_floating_point()) return false;
  // LibTorch has no isneginf() of 8-bit numbers.
  const torch::Tensor known = tensor.element_size() == 1 ? tensor.to(torch::kFloat) : tensor;
  return (known.isfinite() | known.isneginf()).all().item<bool>();
}

/// Gives memory without writing to it: what stands there means nothing.
bool is_allocation(std::string_view operation) {
  return operation.find("empty") != std::string_view::npos || operation.starts_with("aten::resize");
}

/// One of this library: what it is made of is no business of those who call it.
bool is_ours(std::string_view operation) {
  // A second copy of the library in one process is halftone_2.
  return operation.starts_with("halftone::") || operation.starts_with("halftone_");
}

/// LibTorch calls the step of a C++ autograd function after its type.
constexpr std::string_view kFunctionNode = "torch::autograd::CppNode<";

/// "torch::autograd::CppNode<ours::(anonymous namespace)::Scale<float> >" -> "Scale"; other names
/// stay as they are.
std::string plain_name(std::string_view node) {
  if (!node.starts_with(kFunctionNode)) return std::string(node);
  node.remove_prefix(kFunctionNode.size());
  node = node.substr(0, node.find_first_of("<>"));
  const std::size_t scope = node.rfind("::");
  return std::string(scope == std::string_view::npos ? node : node.substr(scope + 2));
}

const c10::StorageImpl* storage_of(const torch::Tensor& tensor) {
  return tensor.storage().unsafeGetStorageImpl();
}

/// What a merged matmul has made of each of its `weights`: the columns of its result. Nothing if
/// that is not their result.
std::vector<torch::Tensor> columns_by_weight(const OperationTensors& result,
                                             const OperationTensors& weights) {
  if (!weights.is_list || result.is_list || result.tensors.empty()) return {};
  const torch::Tensor& whole = result.tensors.front();
  if (!whole.defined() || whole.dim() == 0) return {};
  std::vector<std::int64_t> rows;
  std::int64_t total = 0;
  for (const torch::Tensor& weight : weights.tensors) {
    if (!weight.defined() || weight.dim() != 2) return {};
    rows.push_back(weight.size(0));
    total += rows.back();
  }
  if (rows.empty() || total != whole.size(-1)) return {};
  return whole.detach().split_with_sizes(rows, -1);
}

bool spans_storage(const torch::Tensor& tensor) {
  return tensor.is_contiguous() && tensor.nbytes() == tensor.storage().nbytes();
}

}  // namespace

std::vector<NonFiniteWatch::OpenCall>& NonFiniteWatch::open_calls() {
  thread_local std::vector<OpenCall> calls;
  return calls;
}

// ---- operations

void NonFiniteWatch::begin(const OperationCall& call) {
  const std::lock_guard lock(mutex_);
  OpenCall open{.name = call.name,
                .is_backward = call.is_backward,
                .sequence = call.sequence,
                .parameters = parameters_of(call),
                .first_order = order_ + 1};
  if (!call.is_backward) {
    note_site(open);
    label_inputs(call, open);
  }
  open_calls().push_back(std::move(open));
}

void NonFiniteWatch::end(const OperationCall& call) {
  const std::lock_guard lock(mutex_);
  std::vector<OpenCall>& calls = open_calls();
  if (calls.empty()) return;
  const OpenCall open = std::move(calls.back());
  calls.pop_back();
  if (call.is_backward) return;
  if (!call.is_recorded) forget_site(call.sequence);
  if (call.name == "aten::_to_copy" && !call.inputs.empty() && !call.outputs.empty())
    memory_.follow(call.inputs[0].tensors.at(0), call.outputs[0].tensors.at(0));
  if (is_allocation(call.name)) return note_allocation(call);
  label_outputs(call, open);
  if (is_ours(call.name)) name_weights(call, open);
}

NonFiniteWatch::Names NonFiniteWatch::parameters_of(const OperationCall& call) const {
  Names names;
  for (const OperationTensors& input : call.inputs) {
    if (!input.is_read) continue;
    for (const torch::Tensor& tensor : input.tensors)
      for (std::string& name : memory_.names_in(tensor))
        if (std::find(names.begin(), names.end(), name) == names.end())
          names.push_back(std::move(name));
  }
  return names;
}

/// An operation inside another one, which reads parameters, belongs to these.
NonFiniteWatch::Site NonFiniteWatch::site_here(const OpenCall& call) const {
  if (!call.parameters.empty()) return {call.name, call.parameters, true};
  const std::vector<OpenCall>& calls = open_calls();
  for (auto outer = calls.rbegin(); outer != calls.rend() && !outer->is_backward; ++outer)
    if (!outer->parameters.empty()) return {call.name, outer->parameters, true};
  return {call.name, last_parameters_, false};
}

/// Of the operations with one number, the last and innermost one is what autograd differentiates;
/// but one of ours is differentiated as a whole.
void NonFiniteWatch::note_site(const OpenCall& call) {
  Site site = site_here(call);
  const bool is_forward = !in_backward_ || call.sequence >= 0;  // also one that runs again
  if (!call.parameters.empty() && is_forward) last_parameters_ = {call.parameters.back()};
  if (call.sequence < 0) return;
  const std::vector<OpenCall>& calls = open_calls();
  const bool inside_ours = std::any_of(calls.begin(), calls.end(), [&](const OpenCall& outer) {
    return !outer.is_backward && outer.sequence == call.sequence && is_ours(outer.name);
  });
  if (!inside_ours) sites_[call.sequence] = std::move(site);
}

/// Autograd has nothing of the operation at that number: the step which gets it later is another's.
void NonFiniteWatch::forget_site(std::int64_t sequence) {
  const auto found = sites_.find(sequence);
  if (found == sites_.end()) return;
  found->second = {.parameters = std::move(found->second.parameters)};
}

// ---- labels

void NonFiniteWatch::note_allocation(const OperationCall& call) {
  for (const OperationTensors& output : call.outputs)
    for (const torch::Tensor& tensor : output.tensors)
      if (is_readable(tensor))
        unwritten_.insert_or_assign(storage_of(tensor), tensor.storage().getWeakStorageImpl());
}

void NonFiniteWatch::label_outputs(const OperationCall& call, const OpenCall& open) {
  for (const OperationTensors& output : call.outputs) {
    for (const torch::Tensor& tensor : output.tensors) {
      if (is_readable(tensor)) unwritten_.erase(storage_of(tensor));
      if (is_non_finite(tensor)) {
        // What it is made of may have said it already.
        LabelPtr label = open.input ? open.input : known_label(tensor);
        if (!label && open.reads_unseen) continue;
        set_label(tensor, label ? std::move(label) : new_label(open, made_here()));
      } else if (is_readable(tensor) && spans_storage(tensor)) {
        labels_.erase(storage_of(tensor));
      }
    }
  }
}

/// Of the weights that a merged matmul reads, those whose own part of the result went wrong.
void NonFiniteWatch::name_weights(const OperationCall& call, const OpenCall& open) {
  for (const OperationTensors& input : call.inputs) {
    for (const OperationTensors& output : call.outputs) {
      const std::vector<torch::Tensor> columns = columns_by_weight(output, input);
      Names names;
      LabelPtr label;
      for (std::size_t i = 0; i < columns.size(); ++i) {
        if (!is_non_finite(columns[i])) continue;
        label = known_label(columns[i]);
        for (std::string& name : memory_.names_in(input.tensors[i]))
          names.push_back(std::move(name));
      }
      if (label && label->order >= open.first_order && !names.empty())
        label->origin.parameters = std::move(names);
    }
  }
}

/// The first of the inputs' labels; that of what is like a mask comes last. Before the operation,
/// which may write over them.
void NonFiniteWatch::label_inputs(const OperationCall& call, OpenCall& open) {
  bool is_mask = false;
  for (const OperationTensors& input : call.inputs) {
    if (!input.is_read) continue;
    for (const torch::Tensor& tensor : input.tensors) {
      if (!is_non_finite(tensor)) continue;
      // Fresh memory that it fills.
      if (input.is_written && unwritten_.contains(storage_of(tensor))) continue;
      LabelPtr label = known_label(tensor);
      if (!label) label = label_of_unseen(open);
      if (!label) {
        open.reads_unseen = true;
        continue;
      }
      set_label(tensor, label);
      const bool mask = has_only_negative_inf(tensor);
      if (open.input && std::pair(mask, label->order) >= std::pair(is_mask, open.input->order))
        continue;
      open.input = std::move(label);
      is_mask = mask;
    }
  }
}

/// Of what no operation was seen to make. Inside one of ours, a loop of its own has made it. Inside
/// one of LibTorch's, it may be memory that nobody has written to: nothing.
NonFiniteWatch::LabelPtr NonFiniteWatch::label_of_unseen(const OpenCall& reader) {
  const std::vector<OpenCall>& calls = open_calls();
  if (calls.empty() || calls.back().is_backward) return new_label(reader, Kind::kInput);
  const OpenCall& maker = calls.back();
  if (!is_ours(maker.name)) return nullptr;
  return maker.input ? maker.input : new_label(maker, made_here());
}

NonFiniteWatch::LabelPtr NonFiniteWatch::new_label(const OpenCall& call, Kind kind) {
  auto label = std::make_shared<NonFiniteLabel>();
  label->order = ++order_;
  NonFiniteOrigin& origin = label->origin;
  origin.kind = kind;
  origin.operation = call.name;
  Site site = in_backward_ ? Site{} : site_here(call);
  if (in_backward_) {
    describe_backward(origin, site);
  } else {
    const std::vector<OpenCall>& calls = open_calls();
    const auto outer = std::find_if(calls.begin(), calls.end(),
                                    [](const OpenCall& open) { return is_ours(open.name); });
    if (outer != calls.end() && outer->name != call.name) origin.within = outer->name;
  }
  origin.parameters = std::move(site.parameters);
  origin.reads_parameter = site.reads_parameter;
  return label;
}

Kind NonFiniteWatch::made_here() const { return in_backward_ ? Kind::kBackward : Kind::kForward; }

void NonFiniteWatch::describe_backward(NonFiniteOrigin& origin, Site& site) const {
  const std::vector<OpenCall>& calls = open_calls();
  const auto node = std::find_if(calls.rbegin(), calls.rend(),
                                 [](const OpenCall& call) { return call.is_backward; });
  if (node == calls.rend()) return;
  if (const auto found = sites_.find(node->sequence); found != sites_.end()) site = found->second;
  origin.forward = site.operation;
  if (!is_ours(site.operation)) origin.node = plain_name(node->name);
}

std::optional<NonFiniteLabel> NonFiniteWatch::label_of(const torch::Tensor& tensor) const {
  if (!is_non_finite(tensor)) return std::nullopt;
  const std::lock_guard lock(mutex_);
  if (const LabelPtr label = known_label(tensor)) return *label;
  return NonFiniteLabel{.origin = {.kind = Kind::kInput, .operation = "the loss"}};
}

NonFiniteWatch::LabelPtr NonFiniteWatch::known_label(const torch::Tensor& tensor) const {
  const auto found = labels_.find(storage_of(tensor));
  return found != labels_.end() ? found->second.second : nullptr;
}

void NonFiniteWatch::set_label(const torch::Tensor& tensor, LabelPtr label) {
  labels_.insert_or_assign(storage_of(tensor),
                           std::pair(tensor.storage().getWeakStorageImpl(), std::move(label)));
}

}  // namespace halftone
