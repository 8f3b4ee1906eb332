// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/tune/layer_errors.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "halftone/core/stopwatch.h"
#include "halftone/diagnostics/tune/layer_patterns.h"
#include "halftone/inspect/site.h"
#include "halftone/train/layer_precision.h"

namespace halftone {
namespace {

constexpr double kLeastLayerGain = 0.02;  // of a layer's time, for a format to be a candidate

double gain_of(const TunedLayers& group, const FormatMeasurement& one) {
  return group.seconds - one.seconds;
}

/// The largest gain of a format.
double best_gain(const TunedLayers& group) {
  double best = 0;
  for (const FormatMeasurement& one : group.formats) best = std::max(best, gain_of(group, one));
  return best;
}

/// Seconds of all layers of a group by format, of formats that all of them have.
std::map<ComputeType, double> summed_times(const CostedLayers& costed,
                                           const std::vector<std::size_t>& members,
                                           const MixedPrecision& precision) {
  std::map<ComputeType, double> sums;
  for (const std::size_t i : members)
    for (const auto& [type, time] : costed.times[i])
      sums[type] += time.total(precision.memory().recompute_blocks);
  return sums;
}

TunedLayers group_of(const std::string& name, const std::vector<std::size_t>& members,
                     const CostedLayers& costed, const MixedPrecision& precision) {
  TunedLayers group{.name = name};
  for (const std::size_t i : members) {
    const std::vector<std::string>& modules = costed.layers[i].modules;
    group.modules.insert(group.modules.end(), modules.begin(), modules.end());
  }
  const ComputeType own = reference_format(costed.layers[members.front()], precision.policy());
  group.reference = group.choice = own;
  const std::map<ComputeType, double> sums = summed_times(costed, members, precision);
  group.seconds = sums.at(own);
  for (const auto& [type, seconds] : sums)
    if (type != own && seconds < (1 - kLeastLayerGain) * group.seconds)
      group.formats.push_back({.format = type, .seconds = seconds});
  return group;
}

}  // namespace

ComputeType reference_format(const TunableLayer& layer, const PrecisionPolicy& policy) {
  return layer.is_head ? lm_head_type(policy.compute) : policy.compute;
}

std::vector<TunedLayers> grouped_layers(const CostedLayers& costed, const MixedPrecision& precision,
                                        bool by_role) {
  std::vector<std::pair<std::string, std::vector<std::size_t>>> groups;
  for (std::size_t i = 0; i < costed.layers.size(); ++i) {
    const std::string& path = costed.layers[i].name;
    const std::string name = by_role ? without_places(path) : path;
    const auto same = std::find_if(groups.begin(), groups.end(),
                                   [&](const auto& group) { return group.first == name; });
    if (same == groups.end())
      groups.push_back({name, {i}});
    else
      same->second.push_back(i);
  }
  std::vector<TunedLayers> made;
  for (const auto& [name, members] : groups)
    made.push_back(group_of(name, members, costed, precision));
  return made;
}

std::size_t measurement_count(const std::vector<TunedLayers>& groups) {
  std::size_t count = 0;
  for (const TunedLayers& group : groups) count += group.formats.size();
  return count;
}

MeasuredStep FormatTrial::measure(const std::string& name,
                                  const std::map<std::string, ComputeType>& formats) {
  precision_.set_layer_formats(formats.empty() ? nullptr : layer_formats(*step_.network, formats));
  StepGradients gradients = step_gradients(step_, precision_);
  precision_.set_layer_formats(nullptr);
  MeasuredStep measured{
      .name = name, .seconds = gradients.seconds, .loss_change = gradients.loss - exact_.loss()};
  measured.error = exact_.error_of(std::move(gradients)).total;
  return measured;
}

void measure_errors(std::vector<TunedLayers>& groups, FormatTrial& trial,
                    const MeasuredStep& reference, double max_seconds,
                    const std::function<void(double share)>& progress) {
  const Stopwatch watch;
  std::vector<std::size_t> order(groups.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return best_gain(groups[a]) > best_gain(groups[b]);
  });
  const std::size_t total = measurement_count(groups);
  std::size_t done = 0;
  for (const std::size_t i : order) {
    TunedLayers& group = groups[i];
    if (watch.seconds() >= max_seconds && !group.formats.empty()) {
      group.is_measured = false;
      group.formats.clear();
    }
    for (FormatMeasurement& one : group.formats) {
      std::map<std::string, ComputeType> formats;
      for (const std::string& path : group.modules) formats[path] = one.format;
      const MeasuredStep step = trial.measure(group.name, formats);
      one.error = step.error;
      one.loss_change = step.loss_change - reference.loss_change;
      progress(static_cast<double>(++done) / static_cast<double>(total));
    }
  }
}

}  // namespace halftone
