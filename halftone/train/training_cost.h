// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <ctime>
#include <vector>

#include "halftone/core/median.h"
#include "halftone/system/memory.h"
#include "halftone/train/callback.h"

namespace halftone {

/// What a training takes: time of its steps and memory of the process, for a program to say when
/// fit() is done. Each fit() counts anew. metrics.jsonl has each step's own.
class TrainingCost : public Callback {
 public:
  void setup(const Trainer& /*trainer*/) override {
    reset_peak_resident_bytes();  // what was read before is none of the training
    step_ms_.clear();
    cpu_seconds_.clear();
    in_step_ = false;
  }
  void on_train_batch_start(Trainer& /*trainer*/, std::int64_t /*index*/) override {
    if (!in_step_) begin_ = std::clock();  // of several batches the first
    in_step_ = true;
  }
  void on_step_end(Trainer& /*trainer*/, const StepMetrics& metrics) override {
    step_ms_.push_back(metrics.step_ms);
    cpu_seconds_.push_back(static_cast<double>(std::clock() - begin_) / CLOCKS_PER_SEC);
    in_step_ = false;
  }

  std::int64_t steps() const { return static_cast<std::int64_t>(step_ms_.size()); }
  /// Of the median step; 0 where there was none.
  double step_seconds() const { return median(step_ms_) / 1000; }
  /// Of all threads: what a step takes where others use the cores too.
  double step_cpu_seconds() const { return median(cpu_seconds_); }
  /// At its most since fit() began, in pages that are in memory; 0 where the system does not tell.
  static std::uint64_t peak_bytes() { return peak_resident_bytes(); }

 private:
  std::vector<double> step_ms_;
  std::vector<double> cpu_seconds_;
  std::clock_t begin_ = 0;
  bool in_step_ = false;
};

}  // namespace halftone
