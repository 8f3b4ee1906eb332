// SPDX-License-Identifier: Apache-2.0
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <array>
#include <exception>
#include <string_view>
#include <utility>

#include "halftone/core/stopwatch.h"
#include "halftone/inspect/finite_scan_impl.h"
#include "halftone/inspect/operation_kinds_impl.h"
#include "halftone/probe/probe_reader_impl.h"
#include "halftone/probe/python_modules_impl.h"

namespace halftone {
namespace {

/// Of LibTorch's own part of a report, the boxing of arguments above all.
constexpr double kReportSeconds = 3e-6;
constexpr std::int64_t kMostLabels = 100000;  // whose births are remembered
constexpr std::string_view kLeafStep = "torch::autograd::AccumulateGrad";

/// What the probe computes is not the program's: no mode of Python sees it.
c10::DispatchKeySet modes_of_python() {
  return c10::DispatchKeySet({c10::DispatchKey::Python, c10::DispatchKey::PythonTLSSnapshot,
                              c10::DispatchKey::PreDispatch});
}

/// LibTorch reports the engine's own work as operations, too.
bool is_of_engine(const OperationCall& call) { return call.name.starts_with("autograd::"); }

template <std::size_t kCount>
bool is_one_of(std::string_view name, const std::array<std::string_view, kCount>& names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// Gives a number, or whether it is one, to the program.
bool reads_number(std::string_view operation) {
  constexpr std::array<std::string_view, 6> kNames = {"aten::item",     "aten::_local_scalar_dense",
                                                      "aten::isfinite", "aten::isnan",
                                                      "aten::isinf",    "aten::is_nonzero"};
  return is_one_of(operation, kNames);
}

bool is_unscaling(std::string_view operation) {
  return operation == "aten::_amp_foreach_non_finite_check_and_unscale_";
}

/// Chooses by numbers, and chooses wrongly where one of them is nan.
bool chooses(std::string_view operation) {
  constexpr std::array<std::string_view, 5> kNames = {"aten::argmax", "aten::multinomial",
                                                      "aten::topk", "aten::sort", "aten::argmin"};
  return is_one_of(operation, kNames);
}

/// Moves numbers, also into another dtype or to a place in others, or writes those that it is told.
bool carries(std::string_view operation) {
  constexpr std::array<std::string_view, 4> kNames = {"aten::copy_", "aten::_to_copy",
                                                      "aten::index_put_", "aten::_index_put_impl_"};
  return moves_numbers(operation) || fills_in(operation) || is_one_of(operation, kNames);
}

const c10::StorageImpl* storage_of(const torch::Tensor& tensor) {
  return tensor.storage().unsafeGetStorageImpl();
}

bool needs_gradient(const OperationCall& call) {
  for (const OperationTensors& input : call.inputs)
    for (const torch::Tensor& tensor : input.tensors)
      if (tensor.defined() && tensor.requires_grad()) return true;
  return false;
}

}  // namespace

ProbeReader::ProbeReader(const ProbeOptions& options, ProbeSteps& steps, Events events)
    : options_(options), steps_(steps), events_(std::move(events)) {
  open_calls().clear();
  frames().clear();
}

ProbeReader::ProbeReader(const torch::nn::Module& module, const ProbeOptions& options,
                         ProbeSteps& steps, Events events)
    : NonFiniteWatch(module), options_(options), steps_(steps), events_(std::move(events)) {
  frames().clear();
}

std::vector<ProbeReader::Frame>& ProbeReader::frames() {
  thread_local std::vector<Frame> frames;
  return frames;
}

std::optional<std::string> ProbeReader::known_module() const {
  std::optional<std::string> module = PythonModules::current();
  return module && !module->empty() ? module : std::nullopt;
}

/// An error of the probe is not the program's.
void ProbeReader::fail(const char* what) {
  if (!is_off_) events_.failed(what);
  is_off_ = true;
}

void ProbeReader::before_fork() { mutex().lock(); }

void ProbeReader::after_fork(bool is_child) {
  if (is_child) is_off_ = true;
  mutex().unlock();
}

// ---- calls

void ProbeReader::on_begin(const OperationCall& call, const OpenCall& open) {
  Frame frame;
  if (!is_off_) {
    const Stopwatch watch;
    const c10::impl::ExcludeDispatchKeyGuard unseen(modes_of_python());
    try {
      frame = begin(call, open);
    } catch (const std::exception& error) {
      fail(error.what());
    }
    step_watched_ += watch.seconds() + kReportSeconds;
  }
  if (is_off_) events_.stop();
  frames().push_back(std::move(frame));
}

void ProbeReader::on_end(const OperationCall& call, const OpenCall& open) {
  if (frames().empty()) return;
  const Frame frame = std::move(frames().back());
  frames().pop_back();
  if (is_off_ || !(frame.searches || frame.samples)) return;
  const Stopwatch watch;
  const c10::impl::ExcludeDispatchKeyGuard unseen(modes_of_python());
  try {
    end(call, open, frame);
  } catch (const std::exception& error) {
    fail(error.what());
  }
  step_watched_ += watch.seconds();
}

ProbeReader::Frame ProbeReader::begin(const OperationCall& call, const OpenCall& open) {
  const bool is_operation = !call.is_backward && !is_of_engine(call);
  const bool in_backward = is_in_backward();
  if (is_operation && open_calls().empty() && !in_backward) take_turn(call);
  const ProbeSteps::Step step = steps_.step();
  Frame frame{.searches = step.searches && !judge_.verdict(), .samples = step.samples};
  if (is_off_ || !step.is_watched()) return {};
  if (in_backward && call.is_backward) steps_.note_backward();
  frame.newest_order = newest_order();
  has_seen_operations_ = true;
  if (is_operation) {
    std::int64_t& ordinal = ordinals_[in_backward ? 1 : 0][call.name];
    const bool is_again = !open_calls().empty() && open_calls().back().name == call.name;
    frame.ordinal = is_again ? ordinal : ++ordinal;
  }
  if (frame.searches) {
    NonFiniteWatch::on_begin(call, open);
    look_before(call, open);
  }
  const bool shadows = options_.underflow || options_.compare;
  const bool is_inside = std::any_of(frames().begin(), frames().end(),
                                     [](const Frame& outer) { return outer.shadow.is_wanted; });
  if (frame.samples && shadows && is_operation && !is_inside) {
    const Stopwatch watch;
    frame.shadow = shadow_.begin(call);
    step_shadowed_ += watch.seconds();
  }
  return frame;
}

void ProbeReader::end(const OperationCall& call, const OpenCall& open, const Frame& frame) {
  const bool is_operation = !call.is_backward && !is_of_engine(call);
  if (frame.searches) {
    NonFiniteWatch::on_end(call, open);
    look_behind(call, frame);
  }
  // Autocast hands an operation on under its name.
  const bool is_again = !open_calls().empty() && open_calls().back().name == call.name;
  if (is_operation && options_.census && !is_again) census_.count(call);
  if (!frame.shadow.is_wanted) return;
  const Stopwatch watch;
  shadow_.end(call, frame.shadow, is_in_backward());
  step_shadowed_ += watch.seconds();
}

// ---- steps

void ProbeReader::backward_begins() {
  const std::lock_guard lock(mutex());
  is_root_next_ = pass_is_open_ = true;
}

void ProbeReader::take_turn(const OperationCall& call) {
  if (steps_.step().searches) {
    PythonModules::follow();
    for (const NamedMemory& parameter : PythonModules::take_parameters())
      name_parameter(parameter.begin, parameter.end, parameter.name);
  }
  if (pass_is_open_) {
    pass_is_open_ = false;
    judge_.pass_is_over();
    report_verdict();
  }
  const bool has_gradients = call.sequence >= 0 && !reads_number(call.name);
  const ProbeSteps::Operation operation{.has_gradients = has_gradients,
                                        .records = has_gradients && needs_gradient(call)};
  ProbeSteps::Turn turn = steps_.operation_begins(operation);
  if (turn == ProbeSteps::Turn::kEnds) {
    finish_step(call.sequence);
    if (is_off_) return;
    turn = steps_.operation_begins(operation);
  }
  if (turn == ProbeSteps::Turn::kBegins) PythonModules::ask_for_parameters(steps_.step().searches);
}

void ProbeReader::finish_step(std::int64_t sequence) {
  const bool searched = steps_.step().searches;
  const bool goes_on = steps_.finish(step_watched_, searched ? step_shadowed_ : step_watched_);
  watched_ += std::exchange(step_watched_, 0.0);
  step_shadowed_ = 0.0;
  for (auto& ordinals : ordinals_) ordinals.clear();
  forget_dead();
  forget_before(step_sequence_);
  bad_results_.erase(bad_results_.begin(), bad_results_.lower_bound(step_sequence_));
  births_.erase(births_.begin(), births_.lower_bound(newest_order() - kMostLabels));
  unread_.erase(unread_.begin(), unread_.lower_bound(newest_order() - kMostLabels));
  std::erase_if(parameters_, [](const auto& item) { return item.second.expired(); });
  if (sequence >= 0) step_sequence_ = sequence;
  events_.step_ends();
  if (!goes_on) events_.stop();
}

// ---- the search

void ProbeReader::look_before(const OperationCall& call, const OpenCall& open) {
  if (call.is_backward) {
    if (is_root_next_) look_at_root(open);
    return;
  }
  note_parameters(call);
  const LabelPtr label = label_read();
  if (!label) return;
  unread_.erase(label->order);
  const std::vector<OpenCall>& around = open_calls();
  const auto step = std::find_if(around.rbegin(), around.rend(),
                                 [](const OpenCall& outer) { return outer.is_backward; });
  if (step != around.rend() && step->name == kLeafStep) judge_.gradient_is_bad(label);
  if (is_unscaling(call.name)) judge_.program_checks(label);
  if (!is_in_backward()) {
    if (call.sequence >= 0) look_at_weights(call);
    look_at_reading(call, label);
  }
  report_verdict();
}

/// The step with which a backward pass begins belongs to the loss.
void ProbeReader::look_at_root(const OpenCall& step) {
  if (step.name.find("GraphRoot") != std::string::npos) return;
  is_root_next_ = false;
  if (const auto bad = bad_results_.find(step.sequence); bad != bad_results_.end())
    judge_.loss_is_bad(bad->second);
  report_verdict();
}

bool ProbeReader::is_parameter(const torch::Tensor& tensor) const {
  if (!is_readable(tensor)) return false;
  return (tensor.requires_grad() && tensor.is_leaf()) || parameters_.contains(storage_of(tensor)) ||
         !memory().names_in(tensor).empty();
}

void ProbeReader::note_parameters(const OperationCall& call) {
  for (const OperationTensors& input : call.inputs)
    for (const torch::Tensor& tensor : input.tensors)
      if (is_readable(tensor) && tensor.requires_grad() && tensor.is_leaf())
        parameters_.try_emplace(storage_of(tensor), tensor.storage().getWeakStorageImpl());
}

/// Parameters that some operation has made bad, as the forward pass reads them.
void ProbeReader::look_at_weights(const OperationCall& call) {
  for (const OperationTensors& input : call.inputs) {
    if (!input.is_read || input.is_written) continue;
    for (const torch::Tensor& tensor : input.tensors) {
      if (!is_parameter(tensor)) continue;
      const LabelPtr label = known_label(tensor);
      if (label && !label->is_mask) judge_.weight_is_bad(label);
    }
  }
}

void ProbeReader::look_at_reading(const OperationCall& call, const LabelPtr& label) {
  const torch::Tensor* read = nullptr;
  for (const OperationTensors& input : call.inputs)
    if (read == nullptr && !input.tensors.empty()) read = &input.tensors.front();
  if (read == nullptr) return;
  const bool is_number = reads_number(call.name) && read->numel() == 1;
  if (reads_number(call.name)) judge_.program_checks(label);
  if (is_number && read->requires_grad()) return judge_.program_reads(label);
  if (steps_.has_backward() || !(is_number || chooses(call.name))) return;
  if (is_readable(*read) && read->isnan().any().item<bool>()) judge_.program_reads(label);
}

void ProbeReader::look_behind(const OperationCall& call, const Frame& frame) {
  if (call.is_backward || newest_order() == 0) return;
  const Birth here{.step = steps_.step().number, .ordinal = frame.ordinal};
  for (std::int64_t order = frame.newest_order + 1; order <= newest_order(); ++order)
    births_.try_emplace(order, here);
  for (const OperationTensors& output : call.outputs) {
    for (const torch::Tensor& tensor : output.tensors) {
      if (!is_readable(tensor)) continue;
      LabelPtr label = known_label(tensor);
      if (label && !has_non_finite(tensor)) label = nullptr;  // another part of its memory is bad
      if (label && label->has_begun) births_.try_emplace(label->order, here);
      if (label && label->order > frame.newest_order && rename_cast(call, *label))
        births_[label->order] = here;
      note_result(call, tensor, label);
      if (!parameters_.contains(storage_of(tensor))) continue;
      if (label && !label->is_mask)
        bad_weights_[storage_of(tensor)] = label;
      else
        bad_weights_.erase(storage_of(tensor));
    }
  }
}

/// A cast is a copy inside.
bool ProbeReader::rename_cast(const OperationCall& call, NonFiniteLabel& label) {
  if (call.name != "aten::_to_copy" || label.origin.site.operation != "aten::copy_") return false;
  label.origin.site.operation = call.name;
  return true;
}

/// What the program may come to use without another operation: a loss, or results where there is no
/// backward pass.
void ProbeReader::note_result(const OperationCall& call, const torch::Tensor& result,
                              const LabelPtr& label) {
  if (is_in_backward()) return;
  if (call.sequence >= 0) {
    if (label)
      bad_results_[call.sequence] = label;
    else
      bad_results_.erase(call.sequence);
  }
  if (!label || label->is_mask || !open_calls().empty() || steps_.has_backward()) return;
  if (result.isnan().any().item<bool>()) unread_[label->order] = label;
}

bool ProbeReader::begins_here(const OperationCall& call, NonFiniteLabel& label) {
  if (!label.is_mask || label.has_begun) return false;
  for (const OperationTensors& input : call.inputs)
    for (const torch::Tensor& tensor : input.tensors)
      if (is_parameter(tensor) && known_label(tensor).get() == &label) label.is_weight = true;
  if (call.is_view || carries(call.name)) return false;
  label.has_begun = true;
  births_.erase(label.order);  // look_behind() notes it
  return true;
}

void ProbeReader::report_verdict() {
  if (!judge_.verdict()) return;
  steps_.stop_search();
  PythonModules::ask_for_parameters(false);
  events_.found();
}

void ProbeReader::process_ends() {
  const std::lock_guard lock(mutex());
  if (is_off_ || judge_.verdict()) return;
  judge_.process_ends();
  for (const auto& [storage, label] : bad_weights_) judge_.weight_is_bad(label);
  if (!steps_.has_backward() && !unread_.empty()) judge_.result_is_bad(unread_.begin()->second);
}

}  // namespace halftone
