// SPDX-License-Identifier: Apache-2.0
// The tensors of one training step: every result of an operation that the program calls, the
// gradient of each, and those of the parameters.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "halftone/diagnostics/compare/compare.h"
#include "halftone/diagnostics/compare/rounding_noise_impl.h"
#include "halftone/inspect/recorder_impl.h"

namespace halftone {

/// Operations of two precisions that have one key stand for the same tensor.
struct CapturedTensor {
  std::string key;  // "layers.0.ffn_norm halftone::add_rms_norm #0.1": module, operation, number
  ComparedKind kind = ComparedKind::kActivation;
  std::string module;
  std::string operation;
  std::string parameter;  // the first that the operation reads
  /// The step of autograd that made it, of operations with several results: where precisions differ
  /// in it, one makes a result of another and the other does not, and their gradients differ.
  std::string node;
  torch::Tensor values;  // a copy in its own dtype, detached; of a gradient with the loss scale
};

/// What a layer rounds its operands to: x and W, and the gradient of y, if that is not rounded at
/// random (then its error is measured by drawing again).
struct QuantizedFormats {
  NumberFormat operand;
  std::optional<NumberFormat> gradient;
};

/// The formats that a precision stores each tensor in, by kind and key: what a step with noise is
/// to round, and what it is not.
struct StoredFormats {
  std::map<std::string, NumberFormat> activations;
  std::map<std::string, NumberFormat> activation_gradients;
  /// Of layers that quantize their operands themselves, by the name of their weight.
  std::map<std::string, QuantizedFormats> quantized;
};

/// Watches a forward and a backward pass. Make it before the forward pass and let it live until the
/// backward pass has ended.
class StepCapture : public Recorder, public std::enable_shared_from_this<StepCapture> {
 public:
  /// `noise`: is added to the activations and their gradients that `stored` names; null for none.
  StepCapture(const torch::nn::Module& module, const StoredFormats* stored, RoundingNoise* noise)
      : Recorder(module), stored_(stored), noise_(noise) {}

  std::vector<CapturedTensor> take() { return std::move(tensors_); }

 protected:
  void on_begin(const OperationCall& call, const OpenCall& open) override;
  void on_end(const OperationCall& call, const OpenCall& open) override;

 private:
  const QuantizedFormats* quantized_formats(const std::string& operation,
                                            const std::string& parameter) const;
  void capture(const OpenCall& open, const torch::Tensor& result, const std::string& key,
               bool is_one_of_several);
  void watch_gradient(const torch::Tensor& result, const CapturedTensor& of);
  torch::Tensor noisy_gradient(const CapturedTensor& of, const torch::Tensor& gradient);

  const StoredFormats* stored_;
  RoundingNoise* noise_;
  std::map<std::string, std::int64_t> calls_;  // by module and operation
  std::vector<CapturedTensor> tensors_;
};

}  // namespace halftone
