// SPDX-License-Identifier: Apache-2.0
// Statistics of single layers over a training, measured in some of its steps: what a norm of all
// gradients does not show.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "halftone/train/callback.h"

namespace halftone {

struct LayerStatisticsOptions {
  /// Steps N, 2 N, 3 N, ... are measured. 0: chosen by itself, a power of two, so that measuring
  /// takes less than 2 % of the time; then step 1 is measured, too.
  std::int64_t every_n_steps = 0;
  /// Regular expressions in RE2's syntax that are searched for in the parameters' names; a
  /// parameter is watched that one of them is found in. Empty: all parameters.
  std::vector<std::string> patterns;
};

/// Adds to the metrics of a sampled step, for each parameter NAME that had a gradient:
///
///   grad_norm/NAME        Euclidean norm of the gradient of all the step's batches, before
///   clipping
///                         and without the loss scale
///   grad_rms/NAME         the norm by the square root of the number of elements
///   grad_max/NAME         the largest magnitude, without the loss scale
///   zero_share/NAME       share of elements that are zero
///   underflow_share/NAME  share of the elements that are not zero whose magnitude, with the loss
///                         scale, rounding to the nearest number of the format that is computed in
///                         makes zero: at most 2^-25 in fp16, 2^-134 in bf16, never in fp32. (The
///                         formats of int8 and fp8 recipes are those that autocast has there.)
///                         Of a gradient that is stored in fp16, where such values are zero
///                         already: the zeros of rows that have another element, as a share of
///                         those rows' elements; true zeros count as well. 1 for a gradient of
///                         zeros only where fp16 is computed in.
///   update_ratio/NAME     norm of the weight's change in this step by its norm before
///   lost_updates/NAME     share of the elements with a gradient that is not zero that this step
///   left
///                         as they were: the update was below the rounding step of the format that
///                         the weight is stored in. A bf16 weight with a master beside it counts as
///                         both together.
///   unchanged_weights/NAME  the same, in its place, of weights that are rounded stochastically:
///   the
///                         mean of the updates is kept, so nothing is lost by it.
///
/// A step that is skipped has none. The last three need a learning rate above 0. Numbers flow to
/// metrics.jsonl, the loggers and the pictures of report.html.
///
/// Nothing that is trained changes by a bit. A sampled step copies the watched weights (with
/// masters) until its update is done, when the activations have gone; where gradients are released,
/// one parameter at a time. On a GPU it waits for the device.
///
/// When underflow is above 1 %, or lost updates above 50 %, in three samples in a row, a note names
/// the parameter and the remedy, once in a run.
class LayerStatistics : public Callback {
 public:
  /// Throws UserError for a pattern that is no regular expression, and a negative number of steps.
  explicit LayerStatistics(LayerStatisticsOptions options = {});
  ~LayerStatistics() override;

  /// Throws UserError for a module that steps its optimizers itself, and for patterns that are
  /// found in no parameter.
  void on_fit_start(Trainer& trainer) override;
  void on_before_optimizer_step(Trainer& trainer) override;
  void on_after_backward(Trainer& trainer) override;
  void add_metrics(Trainer& trainer, StepMetrics& metrics) override;
  void on_fit_end(Trainer& trainer) override;
  void on_exception(Trainer& trainer, const std::exception& error) override;

  /// How often it samples now.
  std::int64_t every_n_steps() const;

  /// Where the interval is chosen by itself: it, and what it was chosen by.
  std::string state_key() const override { return "layer_statistics"; }
  bool reads_gradients() const override { return true; }
  bool reads_weights() const override { return true; }
  StateDict state_dict() const override;
  void load_state_dict(const StateDict& state) override;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace halftone
