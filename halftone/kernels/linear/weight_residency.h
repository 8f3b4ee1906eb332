// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/TensorBody.h>

#include <memory>
#include <utility>
#include <vector>

namespace halftone {

/// Brings weights into memory for as long as something computes with them: where processes keep a
/// part of them each. Parameters that it does not know are there all the time.
class WeightResidency {
 public:
  virtual ~WeightResidency() = default;
  /// From now on the parameters have their values, until release() was called as often.
  virtual void hold(const std::vector<at::Tensor>& parameters) = 0;
  virtual void release(const std::vector<at::Tensor>& parameters) = 0;
};

/// Holds parameters while it lives. `residency` null: all weights are there.
class WeightsHeld {
 public:
  WeightsHeld(std::shared_ptr<WeightResidency> residency, std::vector<at::Tensor> parameters)
      : residency_(std::move(residency)), parameters_(std::move(parameters)) {
    if (residency_) residency_->hold(parameters_);
  }
  ~WeightsHeld() {
    if (residency_) residency_->release(parameters_);
  }
  WeightsHeld(const WeightsHeld&) = delete;
  WeightsHeld& operator=(const WeightsHeld&) = delete;

 private:
  std::shared_ptr<WeightResidency> residency_;
  std::vector<at::Tensor> parameters_;
};

}  // namespace halftone
