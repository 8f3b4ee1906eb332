// SPDX-License-Identifier: Apache-2.0
#include "halftone/inspect/autocast_check.h"

#include <ATen/ops/linspace.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <array>
#include <cmath>
#include <exception>
#include <optional>

#include "halftone/autocast/autocast.h"
#include "halftone/core/dtype.h"
#include "halftone/core/error.h"
#include "halftone/core/message.h"

namespace halftone {
namespace {

using torch::ScalarType;
using torch::Tensor;

enum class Narrow { kNone, kFirst, kAll };
constexpr std::array kNarrowings{Narrow::kNone, Narrow::kFirst, Narrow::kAll};

std::string describe(Narrow narrow, ScalarType dtype) {
  switch (narrow) {
    case Narrow::kNone:
      return "fp32 inputs";
    case Narrow::kFirst:
      return "first input " + dtype_name(dtype);
    default:
      return "all inputs " + dtype_name(dtype);
  }
}

/// The relative error of rounding to nearest.
double unit_roundoff(ScalarType dtype) {
  return dtype == torch::kBFloat16 ? std::ldexp(1.0, -8) : std::ldexp(1.0, -11);
}

std::vector<Tensor> cast(const std::vector<Tensor>& inputs, ScalarType dtype, Narrow narrow) {
  std::vector<Tensor> result;
  bool first = true;
  for (const Tensor& input : inputs) {
    const bool casts =
        input.is_floating_point() && narrow != Narrow::kNone && (narrow == Narrow::kAll || first);
    first = first && !input.is_floating_point();
    result.push_back(casts ? input.to(dtype) : input);
  }
  return result;
}

std::vector<Tensor> rounded(const std::vector<Tensor>& inputs, ScalarType dtype) {
  std::vector<Tensor> result;
  for (const Tensor& input : inputs)
    result.push_back(input.is_floating_point() ? input.to(dtype).to(torch::kFloat) : input);
  return result;
}

struct Run {
  std::vector<Tensor> outputs;
  std::vector<Tensor> gradients;  // of the floating inputs; undefined where there is none
  std::string failed;             // "forward" or "backward"
  std::string message;
};

std::string first_line(const std::exception& error) {
  const std::string text = error_text(error);
  return text.substr(0, text.find('\n'));
}

/// The same for every run; no two rows or columns alike.
Tensor output_gradient(const Tensor& output) {
  const auto fp32 = output.options().dtype(torch::kFloat).requires_grad(false);
  return at::linspace(0.1, 1.0, output.numel(), fp32)
      .mul(at::linspace(0.0, 1.7 * static_cast<double>(output.numel()), output.numel(), fp32).cos())
      .view(output.sizes())
      .to(output.scalar_type());
}

Run run(const TensorsFunction& fn, const std::vector<Tensor>& inputs,
        std::optional<ScalarType> region) {
  const torch::AutoGradMode grad(true);
  std::vector<Tensor> leaves;
  for (const Tensor& input : inputs)
    leaves.push_back(input.detach().clone().requires_grad_(input.is_floating_point()));
  Run result;
  try {
    result.failed = "forward";
    {
      const Autocast autocast(inputs.front().device().type(), region, region.has_value());
      result.outputs = fn(leaves);
    }
    result.failed = "backward";
    std::vector<Tensor> roots;
    std::vector<Tensor> seeds;
    for (const Tensor& output : result.outputs) {
      if (!output.is_floating_point() || !output.requires_grad()) continue;
      roots.push_back(output);
      seeds.push_back(output_gradient(output));
    }
    if (!roots.empty()) torch::autograd::backward(roots, seeds);
    result.failed.clear();
  } catch (const std::exception& error) {
    if (!region) throw;
    result.message = first_line(error);
  }
  for (const Tensor& leaf : leaves)
    if (leaf.is_floating_point()) result.gradients.push_back(leaf.grad());
  return result;
}

double relative_error(const Tensor& actual, const Tensor& expected) {
  const Tensor counted = expected.isfinite();
  const Tensor reference = expected.masked_select(counted).to(torch::kDouble);
  const Tensor difference = actual.masked_select(counted).to(torch::kDouble) - reference;
  const double norm = reference.norm().item<double>();
  const double distance = difference.norm().item<double>();
  return norm > 0.0 ? distance / norm : distance;
}

/// Compares one run under autocast with fp32, tensor by tensor.
class Comparison {
 public:
  Comparison(AutocastReport* report, ScalarType dtype, Narrow narrow, double roundings)
      : report_(report),
        dtype_(dtype),
        inputs_(describe(narrow, dtype)),
        rounding_error_(roundings * unit_roundoff(dtype)) {}

  void compare(const Run& actual, const Run& wide, const Run& wide_rounded) {
    if (!actual.failed.empty()) add(actual.failed, AutocastFault::kError, actual.message);
    if (actual.failed == "forward") return;
    if (actual.outputs.size() != wide.outputs.size()) {
      add("forward", AutocastFault::kResult,
          fmt::format("expected {} outputs as in fp32, got {}", wide.outputs.size(),
                      actual.outputs.size()));
      return;
    }
    for (std::size_t i = 0; i < wide.outputs.size(); ++i)
      compare_output(fmt::format("output {}", i), actual.outputs[i], wide.outputs[i],
                     wide_rounded.outputs[i]);
    if (!actual.failed.empty()) return;
    for (std::size_t i = 0; i < wide.gradients.size(); ++i) {
      const std::string where = fmt::format("gradient of input {}", i);
      if (!wide.gradients[i].defined()) continue;
      if (actual.gradients[i].defined()) {
        compare_values(where, actual.gradients[i], wide.gradients[i], wide_rounded.gradients[i]);
      } else {
        add(where, AutocastFault::kResult, "expected one as in fp32, got none");
      }
    }
  }

 private:
  void add(const std::string& where, AutocastFault fault, const std::string& message) {
    report_->findings.push_back({dtype_, inputs_, where, fault, message});
  }

  void compare_output(const std::string& where, const Tensor& actual, const Tensor& wide,
                      const Tensor& wide_rounded) {
    if (actual.sizes() != wide.sizes()) {
      add(where, AutocastFault::kResult,
          c10::str("expected shape ", wide.sizes(), " as in fp32, got ", actual.sizes()));
      return;
    }
    const ScalarType dtype = actual.scalar_type();
    const bool expected = wide.scalar_type() == torch::kFloat
                              ? dtype == torch::kFloat || dtype == dtype_
                              : dtype == wide.scalar_type();
    if (!expected) {
      add(where, AutocastFault::kResult,
          fmt::format("expected {}, got {}",
                      wide.scalar_type() == torch::kFloat ? "fp32 or " + dtype_name(dtype_)
                                                          : dtype_name(wide.scalar_type()),
                      dtype_name(dtype)));
    } else if (actual.is_floating_point()) {
      compare_values(where, actual.detach(), wide.detach(), wide_rounded.detach());
    }
  }

  void compare_values(const std::string& where, const Tensor& actual, const Tensor& wide,
                      const Tensor& wide_rounded) {
    const Tensor lost = actual.isfinite().logical_not().logical_and(wide.isfinite());
    const auto count = lost.sum().item<std::int64_t>();
    if (count > 0) {
      const double largest = wide.masked_select(lost).abs().max().to(torch::kDouble).item<double>();
      add(where, AutocastFault::kOverflow,
          fmt::format("{} of {} values are infinite or NaN; the largest of them is {:.3g} in fp32",
                      count, actual.numel(), largest));
      return;
    }
    const double explained =
        wide_rounded.isfinite().all().item<bool>() ? relative_error(wide_rounded, wide) : 0.0;
    const double allowed = 2.0 * explained + rounding_error_;
    const double error = relative_error(actual, wide);
    report_->measurements.push_back({dtype_, inputs_, where, error, allowed});
    if (!(error <= allowed))
      add(where, AutocastFault::kAccuracy,
          fmt::format("error {:.2g} against fp32, rounding explains {:.2g}", error, allowed));
  }

  AutocastReport* report_;
  ScalarType dtype_;
  std::string inputs_;
  double rounding_error_;
};

/// The position of an input that `dtype` cannot hold, if there is one.
std::optional<std::size_t> input_beyond(const std::vector<Tensor>& inputs, ScalarType dtype) {
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i].is_floating_point() &&
        inputs[i].to(dtype).isfinite().ne(inputs[i].isfinite()).any().item<bool>())
      return i;
  return {};
}

void check_inputs(const std::vector<Tensor>& inputs) {
  bool any = false;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].is_floating_point()) continue;
    any = true;
    HALFTONE_CHECK(inputs[i].scalar_type() == torch::kFloat,
                   "[check_autocast_safe] expected floating inputs in fp32, input ", i, " is ",
                   inputs[i].scalar_type());
  }
  HALFTONE_CHECK(any, "[check_autocast_safe] expected at least one floating input, got none");
}

}  // namespace

AutocastReport check_autocast_safe(const TensorsFunction& fn, const std::vector<Tensor>& inputs,
                                   const AutocastCheckOptions& options) {
  check_inputs(inputs);
  AutocastReport report;
  const Run wide = run(fn, inputs, {});
  for (const ScalarType dtype : options.dtypes) {
    HALFTONE_CHECK(is_half(dtype),
                   "[check_autocast_safe] expected dtypes bfloat16 or float16, got ", dtype);
    if (const auto beyond = input_beyond(inputs, dtype)) {
      report.findings.push_back({dtype, describe(Narrow::kAll, dtype),
                                 fmt::format("input {}", *beyond), AutocastFault::kOverflow,
                                 "its values exceed the format: nothing else was tried with it"});
      continue;
    }
    const Run wide_rounded = run(fn, rounded(inputs, dtype), {});
    for (const Narrow narrow : kNarrowings)
      Comparison(&report, dtype, narrow, options.roundings)
          .compare(run(fn, cast(inputs, dtype, narrow), dtype), wide, wide_rounded);
  }
  return report;
}

AutocastReport check_autocast_safe(const TensorFunction& fn, const std::vector<Tensor>& inputs,
                                   const AutocastCheckOptions& options) {
  return check_autocast_safe(
      TensorsFunction([&fn](const std::vector<Tensor>& x) { return std::vector<Tensor>{fn(x)}; }),
      inputs, options);
}

std::string AutocastReport::to_string() const {
  std::string text = safe() ? "safe under autocast\n" : "not safe under autocast\n";
  for (const AutocastFinding& finding : findings)
    text += fmt::format("  {} autocast, {}, {}: {}\n", dtype_name(finding.dtype), finding.inputs,
                        finding.where, finding.message);
  for (const AutocastMeasurement& m : measurements)
    text += fmt::format("  {} autocast, {:<16} {:<20} error {:8.2g}, allowed {:8.2g}\n",
                        dtype_name(m.dtype), m.inputs, m.where, m.error, m.allowed);
  return text;
}

}  // namespace halftone
