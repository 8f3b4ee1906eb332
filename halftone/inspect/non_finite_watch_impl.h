// SPDX-License-Identifier: Apache-2.0
// Every tensor that is found to hold inf or nan gets a label: the origin of what it holds. An
// operation hands the label of a non-finite input on to its outputs, or starts a new one and says
// why.
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
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
  bool is_known = true;    // why; if not, the operations around it are asked as they end
  bool is_mask = false;    // written on purpose, or read from outside: a softmax may take it in
  bool is_weight = false;  // what was read is a parameter
  bool has_begun = false;  // an operation that computes has read it
};

/// Labels what the observed operations make. Every one of them waits for the device.
class NonFiniteWatch : public Recorder {
 public:
  /// As Recorder's.
  NonFiniteWatch();
  explicit NonFiniteWatch(const torch::nn::Module& module);

  /// Nothing for a finite tensor.
  std::optional<NonFiniteLabel> label_of(const torch::Tensor& tensor) const;

 protected:
  void on_begin(const OperationCall& call, const OpenCall& open) override;
  void on_end(const OperationCall& call, const OpenCall& open) override;

  using LabelPtr = std::shared_ptr<NonFiniteLabel>;

  /// Of what the call reads that began last in this thread; null if that is finite.
  static LabelPtr label_read();
  LabelPtr known_label(const torch::Tensor& tensor) const;
  std::int64_t newest_order() const { return order_; }
  /// Lets go of the memory that is gone.
  void forget_dead();

  /// A result of `call`, which no other operation is around, takes over the label of an input.
  /// Whether that shall be said to begin here: with data that was read.
  virtual bool begins_here(const OperationCall&, NonFiniteLabel&) { return false; }
  /// Whether the numbers are kept that an operation read which filled in inf or nan.
  virtual bool looks_at_masks() const { return true; }

 private:
  /// What is known of a call that this thread is in.
  struct CallNote {
    std::int64_t first_order;   // of the labels that began since
    LabelPtr input;             // the first of its inputs' labels
    bool reads_unseen = false;  // memory of the operation around it, which will say what it holds
    bool reads_masks = true;    // of inputs that are not finite, no others
    std::vector<c10::IValue> arguments;  // what it writes to, as it was before
    std::vector<bool> is_read;           // of each
  };
  /// Of open_calls().
  static std::vector<CallNote>& notes();

  CallNote note_of(const OperationCall& call) const;
  bool is_fresh(const OperationTensors& input, const torch::Tensor& tensor) const;
  void note_allocation(const OperationCall& call);
  void label_outputs(const OperationCall& call, const OpenCall& open, const CallNote& note);
  LabelPtr label_of_result(const OperationCall& call, const OpenCall& open, const CallNote& note,
                           const torch::Tensor& tensor);
  void begin_label(const OperationCall& call, const OpenCall& open, const CallNote& note);
  void name_weights(const OperationCall& call, const CallNote& note);
  void label_inputs(const OperationCall& call, const OpenCall& open, CallNote& note);
  LabelPtr label_of_unseen(const OperationCall& call, const OpenCall& reader, const CallNote& note);
  LabelPtr new_label(const Site& site, NonFiniteOrigin::Kind kind);
  bool spoils_a_mask(const OperationCall& call, const CallNote& note,
                     const torch::Tensor& output) const;
  void explain_input(const OperationCall& call, const CallNote& note, NonFiniteLabel& label) const;
  void explain(const OperationCall& call, const CallNote& note, NonFiniteLabel& label) const;
  void explain_again(const OperationCall& call, const CallNote& note) const;
  void explain_by(const OperationCall& call, const CallNote& note, NonFiniteLabel& label) const;
  void explain_filled(const OperationCall& call, const CallNote& note, NonFiniteLabel& label) const;
  std::vector<TensorFacts> facts_of_inputs(const OperationCall& call, const CallNote& note) const;
  std::string name_of(const torch::Tensor& tensor) const;
  void set_label(const torch::Tensor& tensor, LabelPtr label);

  // The weak pointer keeps the key from being used again.
  using Labelled = std::pair<c10::weak_intrusive_ptr<c10::StorageImpl>, LabelPtr>;

  std::int64_t order_ = 0;
  std::unordered_map<const c10::StorageImpl*, Labelled> labels_;
  std::unordered_map<const c10::StorageImpl*, c10::weak_intrusive_ptr<c10::StorageImpl>> unwritten_;
  std::unordered_map<const c10::StorageImpl*, std::string> buffers_;
};

}  // namespace halftone
