// SPDX-License-Identifier: Apache-2.0
// AdamW (Loshchilov and Hutter 2019, as in PyTorch) over flat buffers: one pass over the memory per
// step, whatever the number of parameters.
#pragma once

#include <torch/optim/optimizer.h>
#include <torch/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "halftone/core/state_dict.h"
#include "halftone/kernels/optimizer/adamw.h"
#include "halftone/kernels/optimizer/gradient_stats.h"
#include "halftone/optim/adamw_layout.h"
#include "halftone/optim/adamw_options.h"

namespace halftone {

/// The gradients as they are (scaled, if the loss was), on the device.
struct GradientStats {
  torch::Tensor norm_squared;  // fp64 scalar; inf or nan when an element is not finite
  torch::Tensor non_finite;    // int64 (number of parameters): elements that are inf or nan
};

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
class AdamW : public torch::optim::Optimizer {
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

  /// Sets the gradients to zero and keeps them where they are. Those of frozen parameters, and
  /// those that are to be released, become undefined.
  void zero_grad();

  double lr() const;
  void set_lr(double lr);
  const AdamWOptions& options() const { return options_; }
  /// Steps taken, without skipped ones; waits for the device.
  std::int64_t step_count() const;
  const std::vector<std::string>& parameter_names() const { return names_; }
  const torch::Tensor& parameter(
      std::size_t index) const;  // the one called parameter_names()[index]
  /// Whether it would take part in a step now: a gradient has come since zero_grad().
  bool has_gradient(std::size_t index) const;
  /// All tensors that are that parameter: more than one where tensors share memory.
  const std::vector<torch::Tensor>& variables(std::size_t index) const;

  /// One read of the gradients; the same bits for any number of threads. Nothing waits.
  GradientStats gradient_stats() const;
  /// Those of one parameter: one range. On the device of the first one.
  RangeStats parameter_stats(std::size_t index) const;

  /// One pass: gradient * gradient_factor, moments, weights. Does nothing, not even count the step,
  /// where found_inf is not 0. Both are scalars of a floating dtype. Nothing waits.
  void step_scaled(const torch::Tensor& gradient_factor, const torch::Tensor& found_inf);

  /// A step in parts: once for each parameter, in any order and as soon as its gradient is whole,
  /// with the same two scalars; then finish_step(), which counts it. The bits are those of
  /// step_scaled(). A gradient that is to be released is undefined afterwards.
  void step_parameter(std::size_t index, const torch::Tensor& gradient_factor,
                      const torch::Tensor& found_inf);
  void finish_step(const torch::Tensor& found_inf);

  /// The bytes of the buffers. adamw_bytes() computes them without allocating.
  AdamWBytes bytes() const;

  /// Views of what is stored, in the parameter's shape: "<name>.exp_avg", "<name>.exp_avg_sq"
  /// (fp32, bf16, or uint8 codes beside "<name>.exp_avg_scale", "<name>.exp_avg_sq_scale", one for
  /// 256 elements), "<name>.master_low" (int16 or uint8). And step, lr, beta1, beta2, eps,
  /// weight_decay, seed, and "<name>.step" of each parameter that took part in fewer steps.
  StateDict state_dict() const;
  /// Throws UserError that names a missing tensor or one of another shape, and leaves the optimizer
  /// as it was. Restores lr; the other options stay those of the constructor, the seed excepted.
  /// A state of the same layout comes back bit for bit. Another one is converted: moments through
  /// fp32, rounded to the nearest bf16 or code; a master that was not saved begins with zeros, one
  /// of 16 bits loses 8 (to nearest, without a carry into the weight: weights are never touched),
  /// one of 8 gains zeros, and one that is not kept is dropped.
  void load_state_dict(const StateDict& state);

 private:
  // A parameter's place in its buffer; `variables` are the tensors that share it.
  struct Slot {
    std::size_t buffer = 0;
    std::int64_t offset = 0;
    std::int64_t numel = 0;
    std::vector<torch::Tensor> variables;
    torch::Tensor weight;                 // view
    torch::Tensor gradient;               // view; undefined when gradients are released
    mutable std::uint32_t untouched = 0;  // the gradient's version while nothing has come
    torch::Tensor missed_steps;           // int64 scalar: counted without it; undefined: none
    bool stepped = false;                 // in the step that is under way
  };
  struct Buffer {
    AdamWTensors tensors;  // flat; gradients undefined when they are released
    torch::Tensor step;    // int64 scalar
    std::vector<std::size_t> slots;
  };
  struct Run {
    Range range;
    torch::Tensor missed_steps;  // as all its parameters have it
  };

  void add_slots(std::vector<std::pair<std::string, torch::Tensor>> named_parameters);
  void allocate_buffers();
  void attach(Slot& slot);
  void attach_gradient(const torch::Tensor& variable, const Slot& slot) const;
  void preset_gradient(const torch::Tensor& variable, const Slot& slot) const;
  void set_gradient_dtype(const torch::Tensor& variable) const;
  void clear_gradient(const Slot& slot) const;
  bool has_arrived(const Slot& slot) const;
  bool collect_gradient(const Slot& slot) const;
  torch::Tensor loose_gradient(const Slot& slot) const;
  std::vector<Run> runs_to_step(const Buffer& buffer) const;
  void count_missed(const Buffer& buffer, const torch::Tensor& counted);
  GradientStats buffered_stats() const;
  GradientStats loose_stats() const;
  torch::Tensor view_of(const torch::Tensor& flat, const Slot& slot) const;
  torch::Tensor scales_of(const torch::Tensor& scales, const Slot& slot) const;
  void check_in_place(std::size_t index) const;
  void check_in_place() const;
  AdamWArguments arguments_for(std::size_t buffer, const torch::Tensor& gradient_factor,
                               const torch::Tensor& found_inf) const;
  void step_slot(Slot& slot, AdamWArguments arguments) const;
  void check_state(const StateDict& state) const;
  std::int64_t saved_step(const StateDict& state, std::size_t index) const;
  void load_missed_steps(const StateDict& state, std::int64_t step);
  void load_slot(std::size_t index, const StateDict& state) const;

  AdamWOptions options_;
  std::vector<std::string> names_;
  std::vector<Slot> slots_;
  std::vector<Buffer> buffers_;
};

}  // namespace halftone
