// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "halftone/train/layer_sampler_impl.h"

namespace halftone {

/// Share of the elements that are not zero, as LayerStatistics defines it, of gradients that carry
/// the loss scale. `compute`: the dtype that is computed in.
double underflow_share_of(const LayerSample& sample, torch::ScalarType compute);

/// Share of the elements with a gradient that the update left in place; nothing without an update,
/// or without such an element.
std::optional<double> unchanged_share_of(const LayerSample& sample);

/// Says once of each kind what several samples in a row have shown.
class LayerAdvice {
 public:
  static constexpr double kUnderflow = 0.01;
  static constexpr double kLost = 0.5;
  static constexpr int kSamples = 3;

  /// `scale`: nothing in a precision without one. The sentences that are new.
  std::vector<std::string> consider(const std::vector<LayerSample>& samples,
                                    torch::ScalarType compute, std::optional<double> scale);

 private:
  /// The worst of those that have crossed a line so often.
  struct Crossing {
    std::string name;
    double share = 0.0;
    std::size_t count = 0;
    torch::ScalarType weight = torch::kFloat;
  };
  /// In how many samples in a row each parameter has crossed a line.
  class Streaks {
   public:
    void note(const LayerSample& sample, bool is_beyond, double share);
    std::optional<Crossing> take();

   private:
    std::map<std::string, int> counts_;
    std::optional<Crossing> worst_;
    bool said_ = false;
  };

  Streaks underflow_, lost_;
};

}  // namespace halftone
