// SPDX-License-Identifier: Apache-2.0
// Every tensor that is found to hold inf or nan gets a label: the origin of what it holds. An
// operation hands the label of a non-finite input on to its outputs, or starts a new one.
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "halftone/inspect/non_finite_finder.h"
#include "halftone/inspect/operation_observer_impl.h"
#include "halftone/inspect/parameter_memory_impl.h"

namespace halftone {

struct NonFiniteLabel {
  std::int64_t order = 0;  // of appearance
  NonFiniteOrigin origin;
};

/// Labels what the observed operations make. Every one of them waits for the device.
class NonFiniteWatch : public OperationObserver {
 public:
  explicit NonFiniteWatch(const torch::nn::Module& module) : memory_(module) {
    open_calls().clear();
  }

  void begin(const OperationCall& call) override;
  void end(const OperationCall& call) override;

  /// From here on autograd works, also between its nodes, where it adds gradients up.
  void begin_backward() { in_backward_ = true; }

  /// Nothing for a finite tensor.
  std::optional<NonFiniteLabel> label_of(const torch::Tensor& tensor) const;

 private:
  using Names = std::vector<std::string>;
  using LabelPtr = std::shared_ptr<NonFiniteLabel>;

  /// What autograd remembers by a sequence number: an operation of the forward pass.
  struct Site {
    std::string operation;  // empty: one that does not report itself
    Names parameters;
    bool reads_parameter = false;
  };
  /// A call that this thread is in.
  struct OpenCall {
    std::string name;
    bool is_backward;
    std::int64_t sequence;
    Names parameters;           // that it reads itself
    std::int64_t first_order;   // of the labels that began since
    LabelPtr input;             // the first of its inputs' labels
    bool reads_unseen = false;  // memory of the operation around it, which will say what it holds
  };
  static std::vector<OpenCall>& open_calls();

  Names parameters_of(const OperationCall& call) const;
  Site site_here(const OpenCall& call) const;
  void note_site(const OpenCall& call);
  void forget_site(std::int64_t sequence);
  void note_allocation(const OperationCall& call);
  void label_outputs(const OperationCall& call, const OpenCall& open);
  void name_weights(const OperationCall& call, const OpenCall& open);
  void label_inputs(const OperationCall& call, OpenCall& open);
  LabelPtr label_of_unseen(const OpenCall& reader);
  LabelPtr new_label(const OpenCall& call, NonFiniteOrigin::Kind kind);
  NonFiniteOrigin::Kind made_here() const;
  void describe_backward(NonFiniteOrigin& origin, Site& site) const;
  LabelPtr known_label(const torch::Tensor& tensor) const;
  void set_label(const torch::Tensor& tensor, LabelPtr label);

  // The weak pointer keeps the key from being used again.
  using Labelled = std::pair<c10::weak_intrusive_ptr<c10::StorageImpl>, LabelPtr>;

  mutable std::mutex mutex_;
  std::atomic<bool> in_backward_ = false;
  std::int64_t order_ = 0;
  ParameterMemory memory_;
  Names last_parameters_;
  std::map<std::int64_t, Site> sites_;
  std::unordered_map<const c10::StorageImpl*, Labelled> labels_;
  std::unordered_map<const c10::StorageImpl*, c10::weak_intrusive_ptr<c10::StorageImpl>> unwritten_;
};

}  // namespace halftone
