// SPDX-License-Identifier: Apache-2.0
// The rows of a profile put together: by operation, by module, by reason.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "halftone/diagnostics/profile/step_profile.h"

namespace halftone {

/// One row for each name, phase and dtypes, of all modules; the longest own time first. Its module
/// is empty, its fp32_reason that of the longest of them.
std::vector<OperationCost> by_operation(const StepProfile& profile);

/// A module with all that is below it, per step.
struct ModuleCost {
  std::string module;     // path; "" for the whole step
  std::size_t depth = 0;  // 0 for the whole step
  double calls = 0;       // of operations
  double total_s = 0;
  double self_s = 0;  // of operations that are no module's below it
  double forward_s = 0;
  double backward_s = 0;  // with what is recomputed
  double update_s = 0;
  double flops = 0;
  double bytes = 0;
  double cast_s = 0;
  double fp32_s = 0;  // of operations with an fp32_reason
};

/// The tree of modules, each before those below it, and of those the longest first.
/// `merges_places`: of without_places().
std::vector<ModuleCost> by_module(const StepProfile& profile, bool merges_places);

/// Operations that computed in fp32 in a mixed precision, for one reason.
struct Fp32Cost {
  std::string reason;
  std::string module;  // without_places()
  std::string operation;
  StepPhase phase = StepPhase::kForward;
  double calls = 0;
  double self_s = 0;
};
/// The longest first.
std::vector<Fp32Cost> fp32_operations(const StepProfile& profile);

/// A matmul shape, where it occurs. Its dtype is that of the precision where this machine alone
/// upcasts to fp32.
struct ShapeUse {
  MatmulShape shape;
  std::string module;     // without_places(), of the first that has it
  std::string operation;  // likewise
  std::string remedy;     // tensor_core_remedy()
  double flops = 0;       // per step, of the operations that have it
};
/// The most work first.
std::vector<ShapeUse> matmul_shapes(const StepProfile& profile);

/// Fp32Tensors of the same kind, operation and module without_places(); the largest first.
std::vector<Fp32Tensors> merged_fp32_tensors(const StepProfile& profile);

/// Seconds of casts per step, and of operations that multiply matrices.
double cast_s(const StepProfile& profile);
double matmul_s(const StepProfile& profile);
double flops_of(const StepProfile& profile);

/// Flops per second of an operation over the measured peak of its dtype; 0 where either is not
/// known.
double peak_share(const OperationCost& cost, const MachinePeaks& peaks);

}  // namespace halftone
