// SPDX-License-Identifier: Apache-2.0
// Where the time and the memory of a training step go. The step is computed whole, by the code that
// trains: recorded, operation by operation, and measured unobserved beside it.
//
//   MixedPrecision precision(parse_precision("bf16-mixed"), {}, torch::kCPU);
//   precision.convert_module(*module);
//   RepeatedStep step(training_step_on(module, batch), precision, {optimizer});
//   std::cout << to_text(profile_step(step));
#pragma once

#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "halftone/diagnostics/profile/machine_peaks.h"
#include "halftone/diagnostics/profile/repeated_step.h"
#include "halftone/diagnostics/profile/tensor_cores.h"

namespace halftone {

/// One kind of operation at one place: all calls of a step that have the same name, module, phase
/// and dtypes. Times are means of the recorded steps, per step.
struct OperationCost {
  std::string operation;  // "aten::mm"; of a step of autograd its own time, under its name
  std::string module;     // path; of the backward pass, that of the forward operation. "": the root
  StepPhase phase = StepPhase::kForward;
  std::string inputs;  // dtypes of the floating arguments, each once: "fp32,bf16"
  std::string outputs;
  double calls = 0;
  double self_s = 0;   // without the operations that it calls: these add up to the step
  double total_s = 0;  // with them
  /// Two for each multiply-add of matmuls, convolutions and attention; 0 for what has the counted
  /// operation inside.
  double flops = 0;
  double bytes = 0;        // read and written, as arguments and results tell
  bool is_cast = false;    // from one floating dtype to another
  bool is_upcast = false;  // multiplies in fp32 what the precision has in 16 bits, for speed
  bool is_step_of_autograd = false;
  std::string fp32_reason;           // why it computes in fp32 in a mixed precision; else empty
  std::vector<MatmulShape> matmuls;  // different shapes
};

/// One call of the recorded steps, in order of their begin. Nanoseconds from the step's begin,
/// without the time that recording took.
struct ProfiledCall {
  std::string name;
  std::string module;
  StepPhase phase = StepPhase::kForward;
  std::string dtypes;  // "bf16 > bf16"
  std::string shapes;  // "2048x512,1408x512 > 2048x1408"
  std::int64_t begin_ns = 0;
  std::int64_t end_ns = 0;
  std::size_t depth = 0;  // calls around it
};

struct ProfiledPhase {
  StepPhase phase = StepPhase::kForward;
  std::int64_t begin_ns = 0;
  std::int64_t end_ns = 0;
};

struct ProfiledStep {
  std::vector<ProfiledCall> calls;  // only where ProfileOptions asks for them
  std::vector<ProfiledPhase> phases;
};

enum class MemoryKind { kWeights, kGradients, kOptimizer, kActivations };
/// "weights", "gradients", "optimizer states", "activations".
std::string_view to_string(MemoryKind kind);

/// fp32 that stays in memory: weights, gradients and states all the time, activations from the
/// forward pass to the backward pass.
struct Fp32Tensors {
  MemoryKind kind = MemoryKind::kWeights;
  std::string module;
  std::string operation;  // that made an activation
  double bytes = 0;
  std::string remedy;  // what would make it smaller
};

struct StepProfile {
  std::string precision;                            // "bf16-mixed"
  std::string memory;                               // "standard"
  torch::ScalarType compute_dtype = torch::kFloat;  // of what goes into a matmul
  torch::Device device = torch::kCPU;
  std::int64_t threads = 0;
  std::int64_t micro_batches = 1;

  std::vector<double> step_s;            // of each unobserved step
  std::vector<double> observed_s;        // of each recorded step; between two unobserved ones
  std::vector<double> recorded_steps_s;  // the same without the time that recording took
  double watching_s = 0;  // per recorded step: in the recorder; not in the times below
  double recorded_s = 0;  // per recorded step: the rest, which the times below add up to
  double outside_s = 0;   // per recorded step: in no operation
  double forward_s = 0, recompute_s = 0, backward_s = 0, update_s = 0;  // per recorded step
  bool stepped = true;  // false: gradients overflowed until the last step, none was updated

  std::vector<OperationCost> operations;  // the longest own time first
  std::vector<Fp32Tensors> fp32_tensors;  // the largest first
  double activation_bytes = 0;            // made and in memory after the forward pass, in any dtype
  double fp32_activation_bytes = 0;
  MachinePeaks peaks;
  std::vector<ProfiledStep> steps;  // of each recorded step
};

struct ProfileOptions {
  std::int64_t steps = 5;   // recorded, and as many unobserved
  std::int64_t warmup = 2;  // before them; more where gradients still overflow
  bool keeps_calls = false;
  bool measures_peaks = true;
  std::function<void(double share)> progress;
};

/// Takes `step` twice for each of options.steps, and before that to warm up. On a GPU every
/// recorded operation waits for the device; the unobserved steps do not.
StepProfile profile_step(RepeatedStep& step, const ProfileOptions& options = {});

/// The median of the unobserved steps.
double typical_step_s(const StepProfile& profile);

/// The median recorded step, less what recording took, over the median unobserved one, less 1: how
/// much of the times is still due to being observed, if the machine is quiet.
double observer_share(const StepProfile& profile);

}  // namespace halftone
