// SPDX-License-Identifier: Apache-2.0
#include "halftone/precision/gradient_region.h"

#include <fmt/format.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>

#include "halftone/core/error.h"
#include "halftone/kernels/optimizer/gradient_exponents.h"
#include "halftone/precision/adaptive_scale.h"

namespace halftone {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t kTopBin = exponent_bin(15);  // fp16's last binade
constexpr double kWidest = 16777216.0;              // of the factor, and of its inverse

struct ScaleGradient : torch::autograd::Function<ScaleGradient> {
  static torch::Tensor forward(AutogradContext* ctx, const torch::Tensor& tensor, double factor,
                               bool only_once) {
    ctx->saved_data["factor"] = factor;
    ctx->saved_data["only_once"] = only_once;
    return tensor.view_as(tensor);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    HALFTONE_CHECK(!ctx->saved_data["only_once"].toBool() || !torch::GradMode::is_enabled(),
                   "[gradient_region] a backward pass with create_graph = true goes through a "
                   "region, whose parameters would get wrong second derivatives: compute the "
                   "gradient penalty with a factor of 1");
    return {gradients[0] * ctx->saved_data["factor"].toDouble(), torch::Tensor(), torch::Tensor()};
  }
};

torch::Tensor scaled(const torch::Tensor& tensor, double factor, bool only_once) {
  if (factor == 1.0 || !tensor.requires_grad()) return tensor;
  return ScaleGradient::apply(tensor, factor, only_once);
}

bool usable_factor(double factor) { return std::isfinite(factor) && factor > 0; }
bool usable_margin(std::int64_t margin) { return margin >= 1 && margin <= kWidestMargin; }

}  // namespace

torch::Tensor scale_gradient(const torch::Tensor& tensor, double factor) {
  return scaled(tensor, factor, /*only_once=*/false);
}

struct GradientRegion::Shared {
  double factor;
  std::int64_t margin;
  bool measuring = false;
  torch::Tensor counts;  // exponent_histogram of what has come since measure()

  torch::Tensor receive(const torch::Tensor& gradient) {
    if (measuring && gradient.layout() == torch::kStrided) {
      const torch::Tensor more = exponent_histogram(gradient);
      counts = counts.defined() ? counts + more.to(counts.device(), true) : more;
    }
    return factor == 1.0 ? gradient : gradient / factor;
  }
};

GradientRegion::GradientRegion(const torch::nn::Module& module, GradientRegionOptions options)
    : shared_(std::make_shared<Shared>(Shared{options.factor, options.margin})) {
  set_factor(options.factor);
  HALFTONE_CHECK(usable_margin(options.margin), "[gradient_region] expected a margin of 1..",
                 kWidestMargin, " powers of two, got ", options.margin);
  for (const auto& item : module.named_parameters()) {
    HALFTONE_CHECK(item.value().scalar_type() != torch::kHalf, "[gradient_region] '", item.key(),
                   "' is fp16, where dividing by the factor would flush what it saved: keep "
                   "parameters in fp32 and use autocast");
    if (!item.value().requires_grad()) continue;
    const unsigned hook = item.value().register_hook(
        [shared = shared_](const torch::Tensor& gradient) { return shared->receive(gradient); });
    hooks_.emplace_back(item.value(), hook);
  }
}

GradientRegion::~GradientRegion() {
  for (const auto& [parameter, hook] : hooks_) parameter.remove_hook(hook);
}

torch::Tensor GradientRegion::enter(const torch::Tensor& input) const {
  return scaled(input, 1.0 / shared_->factor, /*only_once=*/true);
}

torch::Tensor GradientRegion::leave(const torch::Tensor& output) const {
  return scaled(output, shared_->factor, /*only_once=*/true);
}

double GradientRegion::factor() const { return shared_->factor; }

void GradientRegion::set_factor(double factor) {
  HALFTONE_CHECK(usable_factor(factor), "[gradient_region] expected a positive factor, got ",
                 factor);
  shared_->factor = factor;
}

void GradientRegion::measure() {
  shared_->measuring = true;
  shared_->counts = torch::Tensor();
}

void GradientRegion::adapt() {
  shared_->measuring = false;
  if (!shared_->counts.defined()) return;
  const torch::Tensor counts = std::exchange(shared_->counts, torch::Tensor()).cpu();
  const auto* bins = counts.const_data_ptr<std::int64_t>();
  std::int64_t top = kExponentBins - 2;
  while (top > 0 && bins[top] == 0) --top;
  double factor = shared_->factor;
  if (bins[kExponentBins - 1] != 0) {
    factor /= 2;
    shared_->margin = std::min(shared_->margin + 1, kWidestMargin);
  } else if (top == 0) {
    factor *= 2;
  } else {
    const double powers = static_cast<double>(kTopBin - top - shared_->margin);
    factor = std::exp2(std::floor(std::log2(factor)) + powers);
  }
  shared_->factor = std::clamp(factor, 1.0 / kWidest, kWidest);
}

StateDict GradientRegion::state_dict() const {
  StateDict state;
  state.values = {{"factor", shared_->factor}, {"margin", shared_->margin}};
  return state;
}

void GradientRegion::load_state_dict(const StateDict& state) {
  const auto factor = state.get<double>("factor");
  const auto margin = state.get<std::int64_t>("margin");
  if (!usable_factor(factor) || !usable_margin(margin))
    throw UserError(fmt::format(
        "saved gradient region has factor {} and margin {}: expected a positive factor and a "
        "margin of 1..{}; load a state as it was saved",
        factor, margin, kWidestMargin));
  shared_->factor = factor;
  shared_->margin = margin;
}

}  // namespace halftone
