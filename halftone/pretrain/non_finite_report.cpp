// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/non_finite_report.h"

#include <fmt/format.h>

#include <optional>

#include "halftone/inspect/non_finite_finder.h"

namespace halftone {

std::string origin_of_non_finite(const torch::nn::Module& module,
                                 const std::function<torch::Tensor()>& forward) {
  for (const auto& parameter : module.named_parameters())
    if (!parameter.value().isfinite().all().item<bool>())
      return fmt::format("the weight '{}' holds inf or nan", parameter.key());
  const std::optional<NonFiniteOrigin> origin =
      find_first_non_finite(module, [&] { return forward().sum(); });
  return origin ? to_string(*origin) : "a second pass was finite";
}

std::string non_finite_loss(const BatchLoss& batch, const torch::nn::Module& module,
                            const std::function<torch::Tensor()>& forward) {
  return fmt::format("the loss of batch {} is {}: {}", batch.index + 1, batch.loss,
                     origin_of_non_finite(module, forward));
}

}  // namespace halftone
