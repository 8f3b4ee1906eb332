// SPDX-License-Identifier: Apache-2.0
// Times each operation of a training step, and counts what it computes and moves.
#pragma once

#include <torch/nn/module.h>

#include <chrono>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "halftone/diagnostics/profile/fp32_reason_impl.h"
#include "halftone/diagnostics/profile/live_tensors_impl.h"
#include "halftone/diagnostics/profile/module_ranges_impl.h"
#include "halftone/diagnostics/profile/repeated_step.h"
#include "halftone/diagnostics/profile/step_profile.h"
#include "halftone/inspect/operation_work_impl.h"
#include "halftone/inspect/recorder_impl.h"

namespace halftone {

/// One kind of operation at one place.
struct OperationKey {
  std::string operation;
  std::string module;
  StepPhase phase = StepPhase::kForward;
  std::string inputs;   // dtypes
  std::string outputs;  // dtypes
  auto operator<=>(const OperationKey&) const = default;
};

/// Of all calls of that kind. Times in nanoseconds.
struct OperationTally {
  std::int64_t calls = 0;
  std::int64_t self_ns = 0;   // without the operations that it called
  std::int64_t total_ns = 0;  // with them; a call within one of the same name is left out
  double flops = 0;           // that no operation inside it counted
  double bytes = 0;           // likewise
  bool is_cast = false;
  bool is_upcast = false;
  bool is_step_of_autograd = false;
  std::string fp32_reason;
  std::vector<MatmulShape> matmuls;  // different ones
};

/// What was seen of several steps.
struct StepsRecord {
  std::map<OperationKey, OperationTally> operations;
  std::vector<ProfiledStep> steps;
  std::vector<std::int64_t> step_ns;
  std::int64_t outermost_ns = 0;  // of all steps: in operations and steps of autograd
  std::vector<LiveTensor> live;   // after the first forward pass that was looked at
};

struct RecordingOptions {
  bool keeps_calls = false;
  bool looks_at_memory = false;
};

/// The reader of one step. Make it when the parameters are where they stay.
class ProfileRecorder : public Recorder {
 public:
  ProfileRecorder(const torch::nn::Module& network, Fp32Reasons& reasons, StepsRecord& record,
                  const RecordingOptions& options);

  /// The time of what is reported next.
  void set_time(std::int64_t now_ns) { now_ns_ = now_ns; }
  void begin_phase(StepPhase phase);
  void end_step();

 protected:
  void on_begin(const OperationCall& call, const OpenCall& open) override;
  void on_end(const OperationCall& call, const OpenCall& open) override;

 private:
  /// Of an open call.
  struct Frame {
    Site site;
    StepPhase phase = StepPhase::kForward;
    std::string inputs;  // dtypes
    std::int64_t begin_ns = 0;
    std::int64_t inside_ns = 0;  // of the calls that it made
    double flops_inside = 0;
    double bytes_inside = 0;
    bool calls_itself = false;  // as autocast calls an operation again, with its arguments cast
    std::size_t mark = 0;
    std::size_t call = 0;  // its place among the step's
  };
  static std::vector<Frame>& frames();

  Site place_of(const OperationCall& call, const OpenCall& open, StepPhase phase) const;
  StepPhase phase_of(const OperationCall& call) const;
  void add(const OperationCall& call, const Frame& frame);
  static bool counts_bytes(const OperationCall& call, const Frame& frame);
  void add_to_outer(const Frame& frame, std::int64_t total, double flops, double bytes);
  void note_reason(const OperationCall& call, const Frame& frame, const OperationWork& work,
                   OperationTally& tally);
  void note_memory(const OperationCall& call, const OpenCall& open, const Frame& frame);
  void note_call(const OperationCall& call, const Frame& frame);

  Fp32Reasons& reasons_;
  StepsRecord& record_;
  RecordingOptions options_;
  std::int64_t now_ns_ = 0;
  std::int64_t begin_ns_ = 0;  // of the step
  StepPhase phase_ = StepPhase::kUpdate;
  LiveTensors tensors_;
  bool has_looked_ = false;
};

/// A clock that stands still while the recorder works, before the recorder. On a GPU it waits for
/// the device before it looks, so that a time is that of the operation's kernels with their launch.
class ClockedRecorder : public OperationObserver {
 public:
  ClockedRecorder(std::shared_ptr<ProfileRecorder> recorder, torch::Device device);

  void begin(const OperationCall& call) override;
  void end(const OperationCall& call) override;
  void begin_phase(StepPhase phase);
  void end_step();

  std::int64_t watching_ns() const { return watching_ns_; }

 private:
  std::int64_t now(std::chrono::steady_clock::time_point reported) const;
  template <class Work>
  void watch(std::int64_t entered, const Work& work);

  std::shared_ptr<ProfileRecorder> recorder_;
  torch::Device device_;
  std::mutex mutex_;
  std::int64_t watching_ns_ = 0;
};

}  // namespace halftone
