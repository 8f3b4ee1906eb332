// SPDX-License-Identifier: Apache-2.0
// Gradients that are applied one by one, as the backward pass brings them, and freed (Lv et al.
// 2023, LOMO): those of a whole model are never there.
#pragma once

#include <functional>
#include <optional>

#include "halftone/optim/fused_optimizer.h"

namespace halftone {

/// The norm for clipping a gradient that is applied before all gradients are known.
enum class ClipMode {
  kExact,     // of all gradients of the step: they are measured in a backward pass of their own
  kPrevious,  // of the step before, or of this step's gradients so far where that is larger
};

struct ReleaseOptions {
  double clip_norm = 0.0;  // 0: no clipping
  /// The result of measure_gradients(). With it clipping is exact, and a non-finite gradient stops
  /// the whole update.
  std::optional<GradientStats> measured;
  /// Without it: of the step before. The gradients of this step that have come, the one to be
  /// applied among them, are never clipped less than by their own norm.
  double previous_norm = 0.0;
};

/// Runs `backward`, one backward pass that reaches all parameters at once, and drops each
/// parameter's gradient when it has been measured.
GradientStats measure_gradients(FusedOptimizer& optimizer, const std::function<void()>& backward);

/// Runs `backward`, such a pass, and one step of `optimizer`, whose options must have
/// release_gradients: a parameter is updated as soon as all that use it have added to its gradient,
/// and the gradient is freed. A gradient that is not finite is not applied, nor is any that comes
/// after it, nor does the step count; what came before stays applied unless `measured` is given.
/// Without one and without clipping, and always with `measured`, the bits are those of backward()
/// and step_scaled(). A parameter that no gradient reaches takes no part in the step; gradients
/// that were there before are dropped. Returns the statistics of all gradients. Nothing waits for
/// the device.
///
/// Whatever reads a weight in the backward pass must be differentiated by it, or done with it: a
/// detached use may see the updated one.
GradientStats release_gradients(FusedOptimizer& optimizer, const std::function<void()>& backward,
                                const ReleaseOptions& options = {});

}  // namespace halftone
