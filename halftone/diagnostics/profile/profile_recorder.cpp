// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <chrono>
#include <string_view>
#include <utility>

#include "halftone/core/device.h"
#include "halftone/core/module_scope.h"
#include "halftone/diagnostics/profile/operation_tensors_impl.h"
#include "halftone/diagnostics/profile/profile_recorder_impl.h"

namespace halftone {
namespace {

std::int64_t nanoseconds_of(std::chrono::steady_clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

std::int64_t steady_ns() { return nanoseconds_of(std::chrono::steady_clock::now()); }

/// LibTorch's name of a step of autograd without what all of them have:
/// "torch::autograd::CppNode<ours::(anonymous namespace)::Scale>" -> "Scale".
std::string step_name(std::string_view name) {
  constexpr std::string_view kEngine = "autograd::engine::evaluate_function: ";
  constexpr std::string_view kFunction = "torch::autograd::CppNode<";
  if (name.starts_with(kEngine)) name.remove_prefix(kEngine.size());
  if (name.starts_with(kFunction)) {
    name.remove_prefix(kFunction.size());
    name = name.substr(0, name.find_first_of("<>"));
  }
  const std::size_t scope = name.rfind("::");
  return std::string(scope == std::string_view::npos ? name : name.substr(scope + 2));
}

bool updates_weights(std::string_view operation) {
  if (!is_own_operation(operation)) return false;
  operation = operation.substr(operation.find("::") + 2);
  constexpr std::array<std::string_view, 4> kNames = {"adamw_", "gradient_stats", "encode_moments_",
                                                      "decoded_moments"};
  return std::find(kNames.begin(), kNames.end(), operation) != kNames.end();
}

void add_distinct(std::vector<MatmulShape>& all, const std::vector<MatmulShape>& more) {
  for (const MatmulShape& shape : more)
    if (std::find(all.begin(), all.end(), shape) == all.end()) all.push_back(shape);
}

}  // namespace

ProfileRecorder::ProfileRecorder(const torch::nn::Module& network, Fp32Reasons& reasons,
                                 StepsRecord& record, const RecordingOptions& options)
    : Recorder(network), reasons_(reasons), record_(record), options_(options) {
  frames().clear();
  record_.steps.emplace_back();
}

std::vector<ProfileRecorder::Frame>& ProfileRecorder::frames() {
  thread_local std::vector<Frame> open;
  return open;
}

void ProfileRecorder::begin_phase(StepPhase phase) {
  std::vector<ProfiledPhase>& phases = record_.steps.back().phases;
  if (phases.empty()) begin_ns_ = now_ns_;
  const std::int64_t now = now_ns_ - begin_ns_;
  if (!phases.empty()) phases.back().end_ns = now;
  phases.push_back({phase, now, now});
  if (options_.looks_at_memory && !has_looked_ && phase == StepPhase::kBackward) {
    record_.live = tensors_.alive();
    has_looked_ = true;
  }
  phase_ = phase;
  ModuleRanges::enter({});
}

void ProfileRecorder::end_step() {
  record_.steps.back().phases.back().end_ns = now_ns_ - begin_ns_;
  record_.step_ns.push_back(now_ns_ - begin_ns_);
  ModuleRanges::enter({});
}

StepPhase ProfileRecorder::phase_of(const OperationCall& call) const {
  const std::vector<Frame>& around = frames();
  if (!around.empty() && around.back().phase == StepPhase::kUpdate) return StepPhase::kUpdate;
  if (phase_ != StepPhase::kBackward) return phase_;
  if (updates_weights(call.name)) return StepPhase::kUpdate;
  return !call.is_backward && innermost_module_scope() != nullptr ? StepPhase::kRecompute
                                                                  : StepPhase::kBackward;
}

Site ProfileRecorder::place_of(const OperationCall& call, const OpenCall& open,
                               StepPhase phase) const {
  if (call.is_backward) return {.operation = step_name(call.name), .is_backward = true};
  if (phase == StepPhase::kRecompute)
    return {.module = open.module,
            .operation = call.name,
            .parameters = open.parameters,
            .reads_parameter = !open.parameters.empty()};
  return site_of(call, open);
}

void ProfileRecorder::on_begin(const OperationCall& call, const OpenCall& open) {
  Frame frame;
  frame.phase = phase_of(call);
  frame.site = place_of(call, open, frame.phase);
  frame.inputs = input_dtypes(call);
  frame.mark = tensors_.mark();
  frame.begin_ns = now_ns_;
  if (is_outermost() && !call.is_backward) ModuleRanges::enter(module_levels(frame.site.module));
  if (options_.keeps_calls) {
    std::vector<ProfiledCall>& calls = record_.steps.back().calls;
    frame.call = calls.size();
    calls.push_back({.name = frame.site.operation,
                     .phase = frame.phase,
                     .begin_ns = now_ns_ - begin_ns_,
                     .depth = frames().size()});
  }
  frames().push_back(std::move(frame));
}

void ProfileRecorder::on_end(const OperationCall& call, const OpenCall& open) {
  std::vector<Frame>& around = frames();
  if (around.empty()) return;
  const Frame frame = std::move(around.back());
  around.pop_back();
  add(call, frame);
  if (call.is_backward && around.empty()) ModuleRanges::enter({});  // perhaps the thread's last
  if (!call.is_backward && options_.looks_at_memory && !has_looked_) note_memory(call, open, frame);
  if (options_.keeps_calls) note_call(call, frame);
}

void ProfileRecorder::add(const OperationCall& call, const Frame& frame) {
  const std::int64_t total = now_ns_ - frame.begin_ns;
  const OperationWork work = frame.calls_itself ? OperationWork{} : operation_work(call);
  const double flops = frame.flops_inside > 0 ? 0 : work.flops;
  const double bytes = counts_bytes(call, frame) ? bytes_moved(call) : 0;
  OperationTally& tally = record_.operations[{frame.site.operation, frame.site.module, frame.phase,
                                              frame.inputs, output_dtypes(call)}];
  const std::vector<Frame>& around = frames();
  const bool is_within_itself = std::any_of(around.begin(), around.end(), [&](const Frame& outer) {
    return outer.site.operation == frame.site.operation && outer.inputs == frame.inputs;
  });
  tally.calls += is_within_itself ? 0 : 1;
  tally.self_ns += total - frame.inside_ns;
  tally.total_ns += is_within_itself ? 0 : total;
  tally.flops += flops;
  tally.bytes += bytes;
  tally.is_cast = is_cast(call);
  tally.is_step_of_autograd = call.is_backward;
  if (flops > 0) add_distinct(tally.matmuls, work.matmuls);
  const bool computes = bytes > 0 && frame.phase != StepPhase::kUpdate;
  if (computes && (flops > 0 || work.flops == 0)) note_reason(call, frame, work, tally);
  add_to_outer(frame, total, flops, bytes);
}

/// What is made of other operations alone leaves the counting to them.
bool ProfileRecorder::counts_bytes(const OperationCall& call, const Frame& frame) {
  if (call.is_backward || frame.calls_itself) return false;
  return frame.bytes_inside == 0 || has_kernel(call);
}

void ProfileRecorder::note_reason(const OperationCall& call, const Frame& frame,
                                  const OperationWork& work, OperationTally& tally) {
  std::vector<std::string> around;
  const std::vector<OpenCall>& calls = open_calls();
  for (auto outer = calls.rbegin(); outer != calls.rend() && !outer->is_backward; ++outer)
    around.insert(around.begin(), outer->name);
  const EndedOperation ended{.call = call, .site = frame.site, .work = work, .around = around};
  const std::string reason = reasons_.reason(ended);
  if (reason.empty()) return;
  tally.fp32_reason = reason;
  tally.is_upcast = reasons_.is_upcast(ended);
}

void ProfileRecorder::add_to_outer(const Frame& frame, std::int64_t total, double flops,
                                   double bytes) {
  if (frames().empty()) {
    record_.outermost_ns += total;
    return;
  }
  Frame& outer = frames().back();
  outer.calls_itself = outer.calls_itself || outer.site.operation == frame.site.operation;
  outer.inside_ns += total;
  outer.flops_inside += frame.flops_inside + flops;
  outer.bytes_inside += frame.bytes_inside + bytes;
  // A step of autograd has the module of the operations in it.
  if (outer.site.module.empty() && outer.site.is_backward) outer.site.module = frame.site.module;
}

void ProfileRecorder::note_memory(const OperationCall& call, const OpenCall& open,
                                  const Frame& frame) {
  // What the Recorder follows: the first argument of a cast, where it reads a parameter.
  const bool is_followed = call.name == "aten::_to_copy" && !open.parameters.empty();
  tensors_.made_by(call, frame.site.module, frame.mark, is_followed);
}

void ProfileRecorder::note_call(const OperationCall& call, const Frame& frame) {
  ProfiledCall& record = record_.steps.back().calls[frame.call];
  record.end_ns = now_ns_ - begin_ns_;
  record.module = frame.site.module;
  if (call.is_backward) return;
  record.dtypes = frame.inputs + " > " + output_dtypes(call);
  record.shapes = shapes_of(call);
}

ClockedRecorder::ClockedRecorder(std::shared_ptr<ProfileRecorder> recorder, torch::Device device)
    : recorder_(std::move(recorder)), device_(device) {}

std::int64_t ClockedRecorder::now(std::chrono::steady_clock::time_point reported) const {
  if (!device_.is_cuda()) return nanoseconds_of(reported);
  synchronize(device_);
  return steady_ns();
}

template <class Work>
void ClockedRecorder::watch(std::int64_t entered, const Work& work) {
  recorder_->set_time(entered - watching_ns_);
  work();
  watching_ns_ += steady_ns() - entered;
}

void ClockedRecorder::begin(const OperationCall& call) {
  const std::lock_guard lock(mutex_);
  watch(now(call.reported), [&] { recorder_->begin(call); });
}
void ClockedRecorder::end(const OperationCall& call) {
  const std::lock_guard lock(mutex_);
  watch(now(call.reported), [&] { recorder_->end(call); });
}
void ClockedRecorder::begin_phase(StepPhase phase) {
  const std::lock_guard lock(mutex_);
  watch(now(std::chrono::steady_clock::now()), [&] { recorder_->begin_phase(phase); });
}
void ClockedRecorder::end_step() {
  const std::lock_guard lock(mutex_);
  watch(now(std::chrono::steady_clock::now()), [&] { recorder_->end_step(); });
}

}  // namespace halftone
