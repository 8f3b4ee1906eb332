// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/conv2d.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "halftone/core/error.h"
#include "halftone/core/module_scope.h"
#include "halftone/kernels/linear/conv2d.h"
#include "halftone/nn/new_parameter.h"

namespace halftone {
namespace {

void check_options(const Conv2dOptions& options) {
  const auto least = [](const std::array<std::int64_t, 2>& sides) {
    return std::min(sides[0], sides[1]);
  };
  if (std::min({options.in_channels, options.out_channels, options.groups, least(options.kernel),
                least(options.stride), least(options.dilation)}) < 1 ||
      least(options.padding) < 0)
    throw UserError(
        "Conv2d: expected channels, groups, kernel, stride and dilation from 1 and padding from 0; "
        "set in_channels, out_channels and kernel");
  if (options.in_channels % options.groups != 0 || options.out_channels % options.groups != 0)
    throw UserError(fmt::format(
        "Conv2d: expected groups that divide in_channels and out_channels, got {} groups of {} and "
        "{} channels",
        options.groups, options.in_channels, options.out_channels));
}

}  // namespace

Conv2dImpl::Conv2dImpl(const Conv2dOptions& options)
    : grid_{options.kernel, options.stride, options.padding, options.dilation},
      groups_(options.groups) {
  check_options(options);
  const std::int64_t inputs = options.in_channels / options.groups;
  const double bound =
      1.0 / std::sqrt(static_cast<double>(inputs * options.kernel[0] * options.kernel[1]));
  weight = register_parameter(
      "weight", new_parameter({options.out_channels, inputs, options.kernel[0], options.kernel[1]})
                    .uniform_(-bound, bound));
  if (options.has_bias)
    bias =
        register_parameter("bias", new_parameter({options.out_channels}).uniform_(-bound, bound));
}

torch::Tensor Conv2dImpl::forward(const torch::Tensor& x) {
  const ModuleScope scope(*this);
  return conv2d(x, weight, bias, grid_, groups_);
}

}  // namespace halftone
