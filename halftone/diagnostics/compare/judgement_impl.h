// SPDX-License-Identifier: Apache-2.0
// What the figures of a comparison say.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "halftone/diagnostics/compare/compare.h"
#include "halftone/diagnostics/compare/tensor_measures_impl.h"

namespace halftone {

/// How many tolerances an error may be before it has another cause than rounding: what three in a
/// thousand errors exceed. Three where much was measured; more where the tolerance itself is known
/// from few numbers (`samples`), by Student's distribution (Abramowitz and Stegun 26.7.5).
double allowed_tolerances(double samples);

/// A whole gradient of which rounding makes half or more noise is of no use.
inline constexpr double kUselessError = 0.5;

/// Sums in another order differ by so much: no tolerance is below it.
inline constexpr double kLeastTolerance = 1e-6;

/// From its figures and `limit`. `lost_norm`: what measure() returns.
TensorVerdict verdict_of(const TensorComparison& tensor, double lost_norm);

/// A gradient that the judged precision stores in a format of short range.
struct StoredGradient {
  std::string module;
  double tolerance = 0;
  double max_abs = 0;          // of the reference, without a scale
  MagnitudeSpectrum spectrum;  // the same
};

/// Powers of two: with the least, what the format's small numbers take away weighs no more than
/// what rounding does anyway; with the most, the largest value still fits.
struct ScaleRange {
  double least = 1;
  double most = 1;
};
ScaleRange scale_range(const StoredGradient& gradient, const NumberFormat& format);

/// The range that suits all; its least is above its most where none does. Nothing without any.
std::optional<ScaleRange> common_range(const std::vector<StoredGradient>& gradients,
                                       const NumberFormat& format);

/// What is to be changed before the step is computed again.
struct Mend {
  std::optional<double> scale;
  std::vector<std::string> modules;  // to keep in fp32, in the order in which they were found

  bool is_empty() const { return !scale && modules.empty(); }
};

/// Adds to `mend` what the comparison asks for next: first another scale, then the first module in
/// which more goes wrong than rounding. False: nothing, or nothing that has a name.
bool add_to_mend(Mend& mend, const Comparison& comparison, const NumberFormat& format,
                 const std::vector<StoredGradient>& stored);

/// Whether all tensors are fine, and the loss is finite.
bool is_fine(const Comparison& comparison);

/// The 2-norm of what rounding alone changes in all parameters' gradients, over theirs.
double whole_tolerance(const Comparison& comparison);

/// The first tensor of the step that is not fine; null where there is none.
const TensorComparison* first_trouble(const Comparison& comparison);

/// The pattern of keep_fp32 that stands for one module.
std::string pattern_of(const std::string& module);

}  // namespace halftone
