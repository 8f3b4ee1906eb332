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

}  // namespace

std::vector<NonFiniteWatch::CallNote>& NonFiniteWatch::notes() {
  thread_local std::vector<CallNote> notes;
  return notes;
}

void NonFiniteWatch::on_begin(const OperationCall& call, const OpenCall& open) {
  CallNote note{.first_order = order_ + 1};
  if (!call.is_backward) label_inputs(call, open, note);
  notes().push_back(std::move(note));
}

void NonFiniteWatch::on_end(const OperationCall& call, const OpenCall& open) {
  if (notes().empty()) return;
  const CallNote note = std::move(notes().back());
  notes().pop_back();
  if (call.is_backward) return;
  if (is_allocation(call.name)) return note_allocation(call);
  label_outputs(call, open, note);
  if (is_own_operation(call.name)) name_weights(call, note);
}

void NonFiniteWatch::note_allocation(const OperationCall& call) {
  for (const OperationTensors& output : call.outputs)
    for (const torch::Tensor& tensor : output.tensors)
      if (is_readable(tensor))
        unwritten_.insert_or_assign(storage_of(tensor), tensor.storage().getWeakStorageImpl());
}

void NonFiniteWatch::label_outputs(const OperationCall& call, const OpenCall& open,
                                   const CallNote& note) {
  for (const OperationTensors& output : call.outputs) {
    for (const torch::Tensor& tensor : output.tensors) {
      if (is_readable(tensor)) unwritten_.erase(storage_of(tensor));
      if (is_non_finite(tensor)) {
        // What it is made of may have said it already.
        LabelPtr label = note.input ? note.input : known_label(tensor);
        if (!label && note.reads_unseen) continue;
        set_label(tensor, label ? std::move(label) : new_label(site_of(call, open), made_here()));
      } else if (is_readable(tensor) && spans_storage(tensor)) {
        labels_.erase(storage_of(tensor));
      }
    }
  }
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
      if (label && label->order >= note.first_order && !names.empty())
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
      if (!is_non_finite(tensor)) continue;
      // Fresh memory that it fills.
      if (input.is_written && unwritten_.contains(storage_of(tensor))) continue;
      LabelPtr label = known_label(tensor);
      if (!label) label = label_of_unseen(call, open);
      if (!label) {
        note.reads_unseen = true;
        continue;
      }
      set_label(tensor, label);
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
                                                         const OpenCall& reader) {
  if (is_outermost()) return new_label(site_of(call, reader), Kind::kInput);
  const OpenCall& maker = open_calls().back();
  if (!is_own_operation(maker.name)) return nullptr;
  const CallNote& note = notes().back();
  if (note.input) return note.input;
  Site site = site_of(call, reader);
  site.operation = maker.name;
  if (site.within == maker.name) site.within.clear();
  return new_label(site, made_here());
}

NonFiniteWatch::LabelPtr NonFiniteWatch::new_label(const Site& site, Kind kind) {
  auto label = std::make_shared<NonFiniteLabel>();
  label->order = ++order_;
  label->origin.kind = kind;
  label->origin.site = site;
  return label;
}

std::optional<NonFiniteLabel> NonFiniteWatch::label_of(const torch::Tensor& tensor) const {
  if (!is_non_finite(tensor)) return std::nullopt;
  const std::lock_guard lock(mutex());
  if (const LabelPtr label = known_label(tensor)) return *label;
  return NonFiniteLabel{.origin = {.kind = Kind::kInput, .site = {.operation = "the loss"}}};
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
