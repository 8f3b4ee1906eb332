// SPDX-License-Identifier: Apache-2.0
// What each format does to a training step, a group of its layers at a time.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "halftone/diagnostics/tune/layer_times.h"
#include "halftone/diagnostics/tune/step_gradients.h"
#include "halftone/diagnostics/tune/tunable_layers.h"
#include "halftone/diagnostics/tune/tune.h"

namespace halftone {

/// The layers of a step with what they cost.
struct CostedLayers {
  std::vector<TunableLayer> layers;
  std::vector<std::map<ComputeType, LayerTime>> times;  // of each
};

/// The format that the policy gives to `layer`.
ComputeType reference_format(const TunableLayer& layer, const PrecisionPolicy& policy);

/// The layers in groups, each with the formats that save time in it (errors are not known yet):
/// a group for each layer, or, `by_role`, for all whose paths differ in numbers only.
std::vector<TunedLayers> grouped_layers(const CostedLayers& costed, const MixedPrecision& precision,
                                        bool by_role);

/// How many measurements measure_errors() makes.
std::size_t measurement_count(const std::vector<TunedLayers>& groups);

/// A step with some layers in formats of their own.
class FormatTrial {
 public:
  FormatTrial(const TrainingStep& step, MixedPrecision& precision, const GradientReference& exact)
      : step_(step), precision_(precision), exact_(exact) {}

  /// `formats` by path; the precision has none of them afterwards.
  MeasuredStep measure(const std::string& name, const std::map<std::string, ComputeType>& formats);

 private:
  const TrainingStep& step_;
  MixedPrecision& precision_;
  const GradientReference& exact_;
};

/// Fills in the errors of each group's formats, those that save most first, until `max_seconds` are
/// over. `reference`: the step without any.
void measure_errors(std::vector<TunedLayers>& groups, FormatTrial& trial,
                    const MeasuredStep& reference, double max_seconds,
                    const std::function<void(double share)>& progress);

}  // namespace halftone
