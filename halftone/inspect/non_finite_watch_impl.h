// SPDX-License-Identifier: Apache-2.0
// Every tensor that is found to hold inf or nan gets a label: the origin of what it holds. An
// operation hands the label of a non-finite input on to its outputs, or starts a new one.
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "halftone/inspect/non_finite_finder.h"
#include "halftone/inspect/operation_observer_impl.h"
#include "halftone/inspect/recorder_impl.h"

namespace halftone {

struct NonFiniteLabel {
  std::int64_t order = 0;  // of appearance
  NonFiniteOrigin origin;
};

/// Labels what the observed operations make. Every one of them waits for the device.
class NonFiniteWatch : public Recorder {
 public:
  explicit NonFiniteWatch(const torch::nn::Module& module) : Recorder(module) { notes().clear(); }

  /// Nothing for a finite tensor.
  std::optional<NonFiniteLabel> label_of(const torch::Tensor& tensor) const;

 protected:
  void on_begin(const OperationCall& call, const OpenCall& open) override;
  void on_end(const OperationCall& call, const OpenCall& open) override;

 private:
  using LabelPtr = std::shared_ptr<NonFiniteLabel>;

  /// What is known of a call that this thread is in.
  struct CallNote {
    std::int64_t first_order;   // of the labels that began since
    LabelPtr input;             // the first of its inputs' labels
    bool reads_unseen = false;  // memory of the operation around it, which will say what it holds
  };
  /// Of open_calls().
  static std::vector<CallNote>& notes();

  void note_allocation(const OperationCall& call);
  void label_outputs(const OperationCall& call, const OpenCall& open, const CallNote& note);
  void name_weights(const OperationCall& call, const CallNote& note);
  void label_inputs(const OperationCall& call, const OpenCall& open, CallNote& note);
  LabelPtr label_of_unseen(const OperationCall& call, const OpenCall& reader);
  LabelPtr new_label(const Site& site, NonFiniteOrigin::Kind kind);
  LabelPtr known_label(const torch::Tensor& tensor) const;
  void set_label(const torch::Tensor& tensor, LabelPtr label);

  // The weak pointer keeps the key from being used again.
  using Labelled = std::pair<c10::weak_intrusive_ptr<c10::StorageImpl>, LabelPtr>;

  std::int64_t order_ = 0;
  std::unordered_map<const c10::StorageImpl*, Labelled> labels_;
  std::unordered_map<const c10::StorageImpl*, c10::weak_intrusive_ptr<c10::StorageImpl>> unwritten_;
};

}  // namespace halftone
