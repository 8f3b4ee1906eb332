// SPDX-License-Identifier: Apache-2.0
// What a probe does with each operation: it hands it to the search, the census and the shadow, as
// far as the step is watched.
#pragma once

#include <ATen/core/ivalue.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "halftone/inspect/non_finite_watch_impl.h"
#include "halftone/probe/dtype_census_impl.h"
#include "halftone/probe/fault_judge_impl.h"
#include "halftone/probe/fp32_shadow_impl.h"
#include "halftone/probe/probe.h"
#include "halftone/probe/probe_steps_impl.h"

namespace halftone {

class ProbeReader final : public NonFiniteWatch {
 public:
  /// Called in the middle of an operation.
  struct Events {
    std::function<void()> found;  // the first bad operation
    std::function<void()> stop;   // it need not be called until a step is watched
    std::function<void()> step_ends;
    std::function<void(const char*)> failed;  // the probe itself; it will do nothing more
  };
  ProbeReader(const ProbeOptions& options, ProbeSteps& steps, Events events);
  /// Names parameters and modules by the paths in `module`.
  ProbeReader(const torch::nn::Module& module, const ProbeOptions& options, ProbeSteps& steps,
              Events events);

  /// An operation of a program begins its backward pass.
  void backward_begins();
  /// A forked process goes on without it.
  void before_fork();
  void after_fork(bool is_child);
  void process_ends();
  /// What it has seen. Waits for a call that is under way; not from within one.
  void write_to(ProbeReport& report) const;
  /// From within.
  void write_to_locked(ProbeReport& report) const;
  bool has_seen_operations() const { return has_seen_operations_; }

 protected:
  void on_begin(const OperationCall& call, const OpenCall& open) override;
  void on_end(const OperationCall& call, const OpenCall& open) override;
  bool begins_here(const OperationCall& call, NonFiniteLabel& label) override;
  bool looks_at_masks() const override { return false; }
  std::optional<std::string> known_module() const override;

 private:
  /// Of a call that this thread is in.
  struct Frame {
    bool searches = false;
    bool samples = false;
    std::int64_t ordinal = 0;
    std::int64_t newest_order = 0;  // of labels, when it began
    Fp32Shadow::Arguments shadow;
  };
  struct Birth {  // of a label
    std::int64_t step = 0;
    std::int64_t ordinal = 0;
  };
  static std::vector<Frame>& frames();

  Frame begin(const OperationCall& call, const OpenCall& open);
  void end(const OperationCall& call, const OpenCall& open, const Frame& frame);
  void take_turn(const OperationCall& call);
  void finish_step(std::int64_t sequence);
  void look_before(const OperationCall& call, const OpenCall& open);
  void look_behind(const OperationCall& call, const Frame& frame);
  void look_at_root(const OpenCall& step);
  void look_at_weights(const OperationCall& call);
  void look_at_reading(const OperationCall& call, const LabelPtr& label);
  void note_result(const OperationCall& call, const torch::Tensor& result, const LabelPtr& label);
  static bool rename_cast(const OperationCall& call, NonFiniteLabel& label);
  bool is_parameter(const torch::Tensor& tensor) const;
  void note_parameters(const OperationCall& call);
  void report_verdict();
  void fail(const char* what);
  ProbeReport::Find find_of(const NonFiniteLabel& label) const;

  const ProbeOptions options_;
  ProbeSteps& steps_;
  const Events events_;
  std::atomic<bool> is_off_ = false;
  std::atomic<bool> has_seen_operations_ = false;
  bool is_root_next_ = false;  // the step of autograd that comes next begins a backward pass
  bool pass_is_open_ = false;
  double watched_ = 0.0, step_watched_ = 0.0, step_shadowed_ = 0.0;
  std::int64_t step_sequence_ = 0;  // of autograd, where the step began

  FaultJudge judge_;
  DtypeCensus census_;
  Fp32Shadow shadow_;
  std::map<std::string, std::int64_t> ordinals_[2];  // forward, backward: calls in this step
  std::map<std::int64_t, Birth> births_;             // by the labels' order
  std::map<std::int64_t, LabelPtr> bad_results_;     // by the number of the step that autograd made
  std::map<std::int64_t, LabelPtr> unread_;          // by order: what no operation has read
  std::map<const c10::StorageImpl*, LabelPtr> bad_weights_;
  std::unordered_map<const c10::StorageImpl*, c10::weak_intrusive_ptr<c10::StorageImpl>>
      parameters_;
};

}  // namespace halftone
