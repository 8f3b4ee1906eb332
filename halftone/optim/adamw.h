// SPDX-License-Identifier: Apache-2.0
// AdamW (Loshchilov and Hutter 2019, as in PyTorch) over flat buffers: one pass over the memory per
// step, whatever the number of parameters.
#pragma once

#include <torch/optim/optimizer.h>
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "halftone/core/state_dict.h"
#include "halftone/kernels/optimizer/adamw.h"
#include "halftone/optim/adamw_buffers.h"
#include "halftone/optim/adamw_layout.h"
#include "halftone/optim/adamw_options.h"
#include "halftone/optim/arena_shards.h"
#include "halftone/optim/fused_optimizer.h"
#include "halftone/optim/parameter_arena.h"

namespace halftone {

/// Parameters of one dtype and device move into one flat buffer, and their gradients are preset to
/// views of another: build the optimizer after module->to(), and prefer its own zero_grad(), which
/// keeps those views. A gradient that was replaced is copied in. Parameters are fp32, bf16 or fp16;
/// the options say how their gradients, moments and masters are stored. Arithmetic is fp32 for all
/// of them. Results do not depend on the number of threads.
///
/// As in torch.optim, a parameter without a gradient takes no part in a step: weight and moments
/// keep their bits, and its bias correction counts the steps that it took part in. It has none when
/// its gradient is undefined, as that of a frozen parameter is (requires_grad = false), and when
/// nothing has written to the preset one since zero_grad(), as when no backward pass reached it. A
/// parameter may be frozen and unfrozen between steps.
class AdamW : public FusedOptimizer {
 public:
  /// A tensor given twice (tied weights) counts once, under its first name. Throws c10::Error for
  /// another dtype, overlapping parameters and options out of range; where states are offloaded,
  /// for parameters that are not on the CPU, and what zeros_in_file() throws
  /// (system/file_memory.h).
  AdamW(std::vector<std::pair<std::string, torch::Tensor>> named_parameters,
        AdamWOptions options = {});
  /// Names are "group 0, parameter 0" and so on.
  explicit AdamW(std::vector<torch::Tensor> parameters, AdamWOptions options = {});

  /// Updates with the gradients as they are, non-finite ones too.
  torch::Tensor step(LossClosure closure = nullptr) override;

  void zero_grad() override;

  double lr() const;
  void set_lr(double lr);
  const AdamWOptions& options() const { return options_; }
  /// Steps taken, without skipped ones; waits for the device.
  std::int64_t step_count() const;
  const ParameterArena& arena() const override { return arena_; }
  OptimizerTraits traits() const override;

  void step_scaled(const torch::Tensor& gradient_factor, const torch::Tensor& found_inf) override;
  void step_parameter(std::size_t index, const torch::Tensor& gradient_factor,
                      const torch::Tensor& found_inf) override;
  void finish_step(const torch::Tensor& found_inf) override;

  GradientStats gradient_stats() const override;

  /// The bytes of the buffers. adamw_bytes() computes them without allocating.
  OptimizerBytes bytes() const override;

  /// Views of what is stored, in the parameter's shape: "<name>.exp_avg", "<name>.exp_avg_sq"
  /// (fp32, bf16, or uint8 codes beside "<name>.exp_avg_scale", "<name>.exp_avg_sq_scale", one for
  /// 256 elements), "<name>.master_low" (int16 or uint8). And step, lr, beta1, beta2, eps,
  /// weight_decay, seed, and "<name>.step" of each parameter that took part in fewer steps. Where
  /// states are shared over processes, of a parameter that has its states in several of them this
  /// one's part, flat, as "<name>.exp_avg[BEGIN:END]" and so on (optim/state_parts.h).
  StateDict state_dict() const override;
  /// Takes what is its own out of a state, whole or of all processes (optim/state_parts.h).
  /// Throws UserError that names a missing tensor or one of another shape, and leaves the optimizer
  /// as it was. Restores lr; the other options stay those of the constructor, the seed excepted.
  /// A state of the same layout comes back bit for bit. Another one is converted: moments through
  /// fp32, rounded to the nearest bf16 or code; a master that was not saved begins with zeros, one
  /// of 16 bits loses 8 (to nearest, without a carry into the weight: weights are never touched),
  /// one of 8 gains zeros, and one that is not kept is dropped.
  void load_state_dict(const StateDict& state) override;

 private:
  struct Participation {
    torch::Tensor missed_steps;  // int64 scalar: counted without the parameter; undefined: none
    bool stepped = false;        // in the step that is under way
  };
  struct Run {
    Range range;
    torch::Tensor missed_steps;  // as all its parameters have it
  };

  std::vector<Run> runs_to_step(std::size_t buffer) const;
  void step_run(std::size_t buffer, const Run& run, AdamWArguments arguments);
  void count_missed(std::size_t buffer, const torch::Tensor& counted);
  /// What is updated here of a parameter; its range is empty where nothing is.
  AdamWPart part_of_parameter(std::size_t index) const;
  void check_in_place() const;
  AdamWArguments arguments_for(std::size_t buffer, const torch::Tensor& gradient_factor,
                               const torch::Tensor& found_inf) const;
  void step_alone(std::size_t index, AdamWArguments arguments);
  void check_state(const StateDict& state) const;
  std::int64_t saved_step(const StateDict& state, std::size_t index) const;
  void load_missed_steps(const StateDict& state, std::int64_t step);
  void load_part(std::size_t index, const AdamWPart& part, const StateDict& state) const;

  AdamWOptions options_;
  ParameterArena arena_;
  std::unique_ptr<const ArenaShards> shards_;
  std::vector<AdamWPart> parts_;              // that are updated here, buffer by buffer
  std::vector<torch::Tensor> steps_;          // int64 scalars, of the arena's buffers
  std::vector<Participation> participation_;  // of each parameter
};

}  // namespace halftone
