// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>
#include <string_view>

#include "halftone/inspect/finite_scan_impl.h"
#include "halftone/inspect/non_finite_diagnosis_impl.h"
#include "halftone/inspect/non_finite_watch_impl.h"
#include "halftone/inspect/operation_kinds_impl.h"

namespace halftone {
namespace {

using Kind = NonFiniteOrigin::Kind;

bool is_non_finite(const torch::Tensor& tensor) {
  return is_readable(tensor) && has_non_finite(tensor);
}

/// What masks are made of: -inf and nothing worse.
bool has_only_negative_inf(const torch::Tensor& tensor) {
  if (!tensor.is_floating_point()) return false;
  // LibTorch has no isneginf() of 8-bit numbers.
  const torch::Tensor known = tensor.element_size() == 1 ? tensor.to(torch::kFloat) : tensor;
  return (known.isfinite() | known.isneginf()).all().item<bool>();
}

/// A number that stands in the program: x * inf.
bool is_literal(const torch::Tensor& tensor) {
  return tensor.unsafeGetTensorImpl()->is_wrapped_number();
}

/// Gives memory without writing to it: what stands there means nothing.
bool is_allocation(std::string_view operation) {
  return operation.find("empty") != std::string_view::npos || operation.starts_with("aten::resize");
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

Kind made_here() { return is_in_backward() ? Kind::kBackward : Kind::kForward; }

/// Of what the operations inside this one have not yet been asked.
CleanMemory& clean_memory() {
  thread_local CleanMemory memory;
  return memory;
}

bool reads_non_finite(const torch::Tensor& tensor) {
  if (!is_readable(tensor) || clean_memory().contains(tensor)) return false;
  if (has_non_finite(tensor)) return true;
  clean_memory().add(tensor);
  return false;
}

bool makes_non_finite(const torch::Tensor& tensor) {
  if (!is_readable(tensor)) return false;
  clean_memory().forget(tensor);
  return reads_non_finite(tensor);
}

/// The results; of an operation that gives none, what it writes to.
std::vector<torch::Tensor> results_of(const OperationCall& call) {
  std::vector<torch::Tensor> results;
  const auto add = [&](const OperationTensors& more) {
    results.insert(results.end(), more.tensors.begin(), more.tensors.end());
  };
  std::for_each(call.outputs.begin(), call.outputs.end(), add);
  if (!results.empty()) return results;
  for (const OperationTensors& input : call.inputs)
    if (input.is_written) add(input);
  return results;
}

/// Those of an optimizer's whole group at once: to keep them would double its memory.
bool is_update_of_many(std::string_view operation) {
  return operation.starts_with("aten::_foreach_") || operation.starts_with("aten::_fused_adam") ||
         operation.starts_with("aten::_fused_sgd") || operation.starts_with("aten::_amp_foreach_");
}

bool is_written_to(const OperationCall& call, const torch::Tensor& tensor) {
  if (!tensor.defined() || !tensor.has_storage()) return false;
  for (const OperationTensors& input : call.inputs)
    for (const torch::Tensor& written : input.tensors)
      if (input.is_written && written.defined() && written.has_storage() &&
          storage_of(written) == storage_of(tensor))
        return true;
  return false;
}

/// An argument as it is now, also when the operation has written to it.
c10::IValue kept_argument(const OperationCall& call, const c10::IValue& argument) {
  const auto kept = [&](const torch::Tensor& tensor) {
    return is_written_to(call, tensor) ? tensor.detach().clone() : tensor;
  };
  if (argument.isTensor()) return kept(argument.toTensor());
  if (!argument.isTensorList()) return argument;
  c10::List<torch::Tensor> list;
  for (const torch::Tensor& tensor : argument.toTensorVector()) list.push_back(kept(tensor));
  return list;
}

FinishedOperation finished_operation(const OperationCall& call,
                                     const std::vector<c10::IValue>& arguments) {
  FinishedOperation finished{.operation = {call.name, call.overload}, .arguments = arguments};
  finished.results = results_of(call);
  return finished;
}

}  // namespace

NonFiniteWatch::NonFiniteWatch() { notes().clear(); }

NonFiniteWatch::NonFiniteWatch(const torch::nn::Module& module) : Recorder(module) {
  notes().clear();
  for (const auto& item : module.named_buffers())
    if (is_readable(item.value())) buffers_.emplace(storage_of(item.value()), item.key());
}

std::vector<NonFiniteWatch::CallNote>& NonFiniteWatch::notes() {
  thread_local std::vector<CallNote> notes;
  return notes;
}

void NonFiniteWatch::on_begin(const OperationCall& call, const OpenCall& open) {
  if (is_outermost()) clean_memory().clear();
  CallNote note = note_of(call);
  if (!call.is_backward && !call.is_view) label_inputs(call, open, note);
  notes().push_back(std::move(note));
}

NonFiniteWatch::CallNote NonFiniteWatch::note_of(const OperationCall& call) const {
  CallNote note{.first_order = order_ + 1};
  for (std::size_t i = 0; i < call.inputs.size(); ++i) {
    const OperationTensors& input = call.inputs[i];
    const bool is_fresh_memory = input.tensors.size() == 1 && is_fresh(input, input.tensors[0]);
    note.is_read.push_back(input.is_read && !is_fresh_memory);
    const bool keeps = input.is_read && !is_update_of_many(call.name);
    note.arguments.push_back(keeps ? kept_argument(call, call.arguments[i]) : call.arguments[i]);
  }
  return note;
}

/// Memory that nobody has written to yet, and that the operation fills.
bool NonFiniteWatch::is_fresh(const OperationTensors& input, const torch::Tensor& tensor) const {
  return input.is_written && is_readable(tensor) && unwritten_.contains(storage_of(tensor));
}

void NonFiniteWatch::on_end(const OperationCall& call, const OpenCall& open) {
  if (notes().empty()) return;
  const CallNote note = std::move(notes().back());
  notes().pop_back();
  if (call.is_backward) return;
  if (is_allocation(call.name)) return note_allocation(call);
  // What it consists of has told what the results hold.
  if (!call.is_view && !call.is_composite) label_outputs(call, open, note);
  if (is_own_operation(call.name)) name_weights(call, note);
  explain_again(call, note);
  if (note.input && is_outermost()) begin_label(call, open, note);
}

void NonFiniteWatch::note_allocation(const OperationCall& call) {
  for (const OperationTensors& output : call.outputs)
    for (const torch::Tensor& tensor : output.tensors)
      if (is_readable(tensor)) {
        clean_memory().forget(tensor);
        unwritten_.insert_or_assign(storage_of(tensor), tensor.storage().getWeakStorageImpl());
      }
}

void NonFiniteWatch::label_outputs(const OperationCall& call, const OpenCall& open,
                                   const CallNote& note) {
  for (const torch::Tensor& tensor : results_of(call)) {
    if (is_readable(tensor)) unwritten_.erase(storage_of(tensor));
    if (makes_non_finite(tensor)) {
      set_label(tensor, label_of_result(call, open, note, tensor));
    } else if (is_readable(tensor) && spans_storage(tensor)) {
      labels_.erase(storage_of(tensor));
    }
  }
}

/// What it is made of may have said it already. Null: an operation around this one will.
NonFiniteWatch::LabelPtr NonFiniteWatch::label_of_result(const OperationCall& call,
                                                         const OpenCall& open, const CallNote& note,
                                                         const torch::Tensor& tensor) {
  const LabelPtr made = known_label(tensor);
  LabelPtr label = note.input ? note.input : made;
  if (!label && note.reads_unseen) return nullptr;
  if (spoils_a_mask(call, note, tensor))
    label = made && made->order >= note.first_order ? made : nullptr;
  if (!label) {
    label = new_label(site_of(call, open), made_here());
    explain(call, note, *label);
  }
  return label;
}

/// Whether the data that the call has read begin with it.
void NonFiniteWatch::begin_label(const OperationCall& call, const OpenCall& open,
                                 const CallNote& note) {
  const LabelPtr& label = note.input;
  const std::vector<torch::Tensor> results = results_of(call);
  const bool hands_on = std::any_of(results.begin(), results.end(), [&](const auto& tensor) {
    return is_readable(tensor) && known_label(tensor) == label;
  });
  if (!hands_on || !begins_here(call, *label)) return;
  label->origin.kind = Kind::kInput;
  label->origin.site = site_of(call, open);
  label->origin.diagnosis = {.cause = NonFiniteCause::kBadData,
                             .inputs = facts_of_inputs(call, note)};
}

/// Of the weights that a merged matmul reads, those whose own part of the result went wrong.
void NonFiniteWatch::name_weights(const OperationCall& call, const CallNote& note) {
  for (const OperationTensors& input : call.inputs) {
    for (const OperationTensors& output : call.outputs) {
      const std::vector<torch::Tensor> columns = columns_by_weight(output, input);
      Names names;
      LabelPtr label;
      for (std::size_t i = 0; i < columns.size(); ++i) {
        if (!is_non_finite(columns[i])) continue;
        label = known_label(columns[i]);
        for (std::string& name : memory().names_in(input.tensors[i]))
          names.push_back(std::move(name));
      }
      if (!label || label->order < note.first_order || names.empty()) continue;
      if (names.size() == 1) label->origin.site.module = owner_of(names.front());
      label->origin.site.parameters = std::move(names);
    }
  }
}

/// The first of the inputs' labels; that of what is like a mask comes last. Before the operation,
/// which may write over them.
void NonFiniteWatch::label_inputs(const OperationCall& call, const OpenCall& open, CallNote& note) {
  bool is_mask = false;
  for (const OperationTensors& input : call.inputs) {
    if (!input.is_read) continue;
    for (const torch::Tensor& tensor : input.tensors) {
      if (!reads_non_finite(tensor) || is_fresh(input, tensor) || is_literal(tensor)) continue;
      LabelPtr label = known_label(tensor);
      if (!label) label = label_of_unseen(call, open, note);
      if (!label) {
        note.reads_unseen = true;
        continue;
      }
      set_label(tensor, label);
      note.reads_masks &= label->is_mask && !tensor.isnan().any().item<bool>();
      const bool mask = has_only_negative_inf(tensor);
      if (note.input && std::pair(mask, label->order) >= std::pair(is_mask, note.input->order))
        continue;
      note.input = std::move(label);
      is_mask = mask;
    }
  }
}

/// Of what no operation was seen to make. Inside one of ours, a loop of its own has made it. Inside
/// one of LibTorch's, it may be memory that nobody has written to: nothing.
NonFiniteWatch::LabelPtr NonFiniteWatch::label_of_unseen(const OperationCall& call,
                                                         const OpenCall& reader,
                                                         const CallNote& note) {
  if (is_outermost()) {
    LabelPtr label = new_label(site_of(call, reader), Kind::kInput);
    explain_input(call, note, *label);
    return label;
  }
  const OpenCall& maker = open_calls().back();
  if (!is_own_operation(maker.name)) return nullptr;
  if (notes().empty()) return nullptr;  // the watch began within it
  const CallNote& around = notes().back();
  if (around.input) return around.input;
  Site site = site_of(call, reader);
  site.operation = maker.name;
  if (site.within == maker.name) site.within.clear();
  LabelPtr label = new_label(site, made_here());
  label->is_known = false;
  return label;
}

NonFiniteWatch::LabelPtr NonFiniteWatch::new_label(const Site& site, Kind kind) {
  auto label = std::make_shared<NonFiniteLabel>();
  label->order = ++order_;
  label->origin.kind = kind;
  label->origin.site = site;
  return label;
}

// ---- why

/// Makes nan of -inf that was written on purpose: a row that is masked throughout.
bool NonFiniteWatch::spoils_a_mask(const OperationCall& call, const CallNote& note,
                                   const torch::Tensor& output) const {
  if (!note.input || !note.reads_masks) return false;
  if (note.input->origin.kind == Kind::kInput && !is_softmax(call.name)) return false;
  return output.isnan().any().item<bool>();
}

void NonFiniteWatch::explain_input(const OperationCall& call, const CallNote& note,
                                   NonFiniteLabel& label) const {
  NonFiniteDiagnosis& diagnosis = label.origin.diagnosis;
  label.is_mask = true;
  diagnosis.cause = NonFiniteCause::kBadData;
  diagnosis.inputs = facts_of_inputs(call, note);
}

void NonFiniteWatch::explain(const OperationCall& call, const CallNote& note,
                             NonFiniteLabel& label) const {
  NonFiniteDiagnosis& diagnosis = label.origin.diagnosis;
  if (!fills_in(call.name) || looks_at_masks()) diagnosis.inputs = facts_of_inputs(call, note);
  if (fills_in(call.name)) {
    label.is_mask = true;
    label.is_known = is_outermost();
    diagnosis.detail = "it writes a number that is not finite";
    return;
  }
  label.is_known = find_cause(finished_operation(call, note.arguments), diagnosis);
}

/// Labels that began within the call and that it makes part of its result.
void NonFiniteWatch::explain_again(const OperationCall& call, const CallNote& note) const {
  if (labels_.empty()) return;
  for (const torch::Tensor& tensor : results_of(call)) {
    const LabelPtr label = is_readable(tensor) ? known_label(tensor) : nullptr;
    if (!label || label->is_known || label->order < note.first_order) continue;
    if (!label->is_mask)
      explain_by(call, note, *label);
    else if (!fills_in(call.name))
      explain_filled(call, note, *label);
  }
}

void NonFiniteWatch::explain_by(const OperationCall& call, const CallNote& note,
                                NonFiniteLabel& label) const {
  NonFiniteDiagnosis& diagnosis = label.origin.diagnosis;
  NonFiniteDiagnosis found{.inputs = facts_of_inputs(call, note)};
  const torch::ScalarType format = diagnosis.format;
  const bool is_first = diagnosis.inputs.empty();
  label.is_known = find_cause(finished_operation(call, note.arguments), found);
  if (!label.is_known && !is_first) return;
  diagnosis = std::move(found);
  if (!is_first) diagnosis.format = format;  // of what overflowed, not of what was made of it
}

/// The call has no number as a result, and fills in nan: the variance of one element.
void NonFiniteWatch::explain_filled(const OperationCall& call, const CallNote& note,
                                    NonFiniteLabel& label) const {
  NonFiniteDiagnosis found{.inputs = facts_of_inputs(call, note)};
  if (!find_cause(finished_operation(call, note.arguments), found)) return;
  label.is_known = true;
  label.is_mask = false;
  label.origin.site.operation = call.name;
  label.origin.diagnosis = std::move(found);
}

std::vector<TensorFacts> NonFiniteWatch::facts_of_inputs(const OperationCall& call,
                                                         const CallNote& note) const {
  std::vector<TensorFacts> all =
      input_facts(finished_operation(call, note.arguments), note.is_read);
  auto facts = all.begin();
  for (std::size_t i = 0; i < call.inputs.size(); ++i) {
    if (!note.is_read[i]) continue;
    for (const torch::Tensor& tensor : call.inputs[i].tensors)
      if (tensor.defined() && tensor.layout() == torch::kStrided && facts != all.end())
        (facts++)->parameter = name_of(tensor);
  }
  return all;
}

/// The path of the parameters or of the buffer that the tensor is.
std::string NonFiniteWatch::name_of(const torch::Tensor& tensor) const {
  std::string text;
  for (const std::string& name : memory().names_in(tensor))
    text += (text.empty() ? "" : ", ") + name;
  if (!text.empty() || !is_readable(tensor)) return text;
  const auto buffer = buffers_.find(storage_of(tensor));
  return buffer != buffers_.end() ? buffer->second : "";
}

std::optional<NonFiniteLabel> NonFiniteWatch::label_of(const torch::Tensor& tensor) const {
  if (!is_non_finite(tensor)) return std::nullopt;
  const std::lock_guard lock(mutex());
  if (const LabelPtr label = known_label(tensor)) return *label;
  return NonFiniteLabel{.origin = {.kind = Kind::kInput,
                                   .site = {.operation = "the loss"},
                                   .diagnosis = {.cause = NonFiniteCause::kBadData}}};
}

NonFiniteWatch::LabelPtr NonFiniteWatch::known_label(const torch::Tensor& tensor) const {
  const auto found = labels_.find(storage_of(tensor));
  return found != labels_.end() ? found->second.second : nullptr;
}

NonFiniteWatch::LabelPtr NonFiniteWatch::label_read() {
  return notes().empty() ? nullptr : notes().back().input;
}

void NonFiniteWatch::forget_dead() {
  std::erase_if(labels_, [](const auto& item) { return item.second.first.expired(); });
  std::erase_if(unwritten_, [](const auto& item) { return item.second.expired(); });
}

void NonFiniteWatch::set_label(const torch::Tensor& tensor, LabelPtr label) {
  if (!label) return;
  labels_.insert_or_assign(storage_of(tensor),
                           std::pair(tensor.storage().getWeakStorageImpl(), std::move(label)));
}

}  // namespace halftone
