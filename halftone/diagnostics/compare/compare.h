// SPDX-License-Identifier: Apache-2.0
// The same step in two precisions, tensor by tensor: what low precision does to a model, and
// whether it is too much.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "halftone/diagnostics/compare/number_format.h"
#include "halftone/train/step_replay.h"

namespace halftone {

struct CompareOptions {
  std::string precision = "bf16-mixed";  // that is judged
  std::string against = "32-true";       // the reference
  /// The loss is multiplied by it in the judged precision. Not given: 65536 where the precision
  /// scales its loss, else 1.
  std::optional<double> loss_scale;
  // For the judged precision: patterns of precision/keep_fp32.h, formats of
  // train/layer_precision.h.
  std::vector<std::string> keep_fp32;
  std::vector<std::string> layer_precision;
  /// Formats that every tensor is stored in on trial.
  std::vector<std::string> what_if = {"bf16", "fp16", "fp8-e4m3", "fp8-e5m2", "int8"};
  std::int64_t noise_runs = 3;   // reference steps with rounding noise; from 2 on
  std::uint64_t noise_seed = 1;  // of the noise
  torch::Device device = torch::kCPU;
  /// Between the passes; may be empty.
  std::function<void(const std::string& stage, double share)> progress;
};

enum class ComparedKind {
  kActivation,          // the result of an operation of the forward pass
  kActivationGradient,  // d loss / d that result
  kGradient,            // d loss / d a parameter
};
/// "activation", "activation_gradient", "gradient".
const char* to_string(ComparedKind kind);

/// What is wrong with a tensor.
enum class TensorVerdict {
  kFine,
  kOverflow,      // values that the reference has are inf or nan
  kUnderflow,     // what the format flushes to zero weighs more than its rounding
  kImprecise,     // more error than rounding alone makes
  kIncomparable,  // the precisions compute it in different ways, or routers send other rows
};
/// "fine", "overflow", "underflow", "imprecise", "incomparable".
const char* to_string(TensorVerdict verdict);

/// Counts of |x| by power of two: counts[i] of 2^(first + i) <= |x| < 2^(first + i + 1).
struct ExponentHistogram {
  int first = 0;
  std::vector<std::int64_t> counts;
  std::int64_t zeros = 0;
  std::int64_t non_finite = 0;
};

struct WhatIf {
  std::string format;
  StorageLoss loss;
};

/// One tensor in both precisions. Gradients are without the loss scale.
struct TensorComparison {
  ComparedKind kind = ComparedKind::kActivation;
  std::string name;       // of a gradient its parameter, else module, operation and number
  std::string module;     // path; empty: the root
  std::string operation;  // "halftone::linear"; of a gradient empty
  std::vector<std::int64_t> shape;
  std::string dtype;            // in the judged precision
  double norm = 0;              // of the reference, 2-norm
  double max_abs = 0;           // of the reference
  double min_abs = 0;           // its smallest value that is not zero
  double relative_error = 0;    // |judged - reference| / |reference|, 2-norm
  double cosine = 1;            // of the angle between them
  double largest_ulp = 0;       // largest error, in units of the last place of the judged format
  double flushed_share = 0;     // zero in the judged precision and not in the reference
  double overflowed_share = 0;  // not finite in the judged precision, finite in the reference
  /// Of the reference's values times the loss scale (1 for activations): what the format stores as
  /// zero, and beyond its range.
  double flush_if_stored_share = 0;
  double overflow_if_stored_share = 0;
  double tolerance = 0;  // the relative error that rounding alone makes (docs/numerics.md)
  double limit = 0;      // the relative error above which it has another cause
  TensorVerdict verdict = TensorVerdict::kFine;
  ExponentHistogram exponents;  // of the reference
  std::vector<WhatIf> what_if;
};

enum class Verdict {
  kSafe,
  kChangeScale,  // with `scale` it is safe
  kKeepFp32,     // with `keep_fp32` it is
  kDoNotUse,
};
/// "safe", "change_scale", "keep_fp32", "do_not_use".
const char* to_string(Verdict verdict);

struct Judgement {
  Verdict verdict = Verdict::kSafe;
  std::string reason;  // a sentence
  /// Powers of two: below the first, gradients are flushed that count; above the second, they
  /// overflow. Nothing where the format has the range of fp32.
  std::optional<double> least_scale;
  std::optional<double> most_scale;
  std::vector<std::string> keep_fp32;  // patterns, for kKeepFp32
  std::string config;                  // lines of a configuration that mend it; empty: none
  bool verified = false;               // the step was computed with them, and is safe
};

struct Comparison {
  std::string precision;
  std::string against;
  std::string format;  // that the judged precision computes in: "bf16"
  double loss_scale = 1;
  double loss = 0;  // in the judged precision, without the scale
  double reference_loss = 0;
  double loss_tolerance = 0;              // the difference that rounding alone makes
  std::vector<TensorComparison> tensors;  // in the order of the step
  Judgement judgement;
};

/// Computes the step in both precisions and judges `options.precision`.
///
/// The tolerance of a tensor is derived, after TTrace (arXiv 2506.09280): the reference step runs
/// again with rounding noise, as if its numbers had the mantissa of the judged precision and
/// unlimited range: on the weights, on each result and each gradient that the judged precision
/// stores in its format. What rounding alone makes of a tensor is the root mean square of its
/// relative error over these runs. An error of more than three times that has another cause (more
/// than three for tensors of a few elements, whose tolerance is known from few numbers).
///
/// The network is in fp32, and is left as it was; it needs memory for its activations three times.
/// Throws UserError for names that do not exist and for a precision that the network cannot have.
Comparison compare_precisions(const TrainingStep& step, const CompareOptions& options);

}  // namespace halftone
