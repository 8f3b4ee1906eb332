// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <numeric>
#include <vector>

#include "halftone/train/anomaly_remedy_impl.h"
#include "halftone/train/step_search_impl.h"

namespace halftone {
namespace {

std::vector<std::size_t> bad_losses_first(const StepReplay& step) {
  std::vector<std::size_t> order(step.micro_batches.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_partition(order.begin(), order.end(), [&](std::size_t i) {
    const torch::Tensor& loss = step.micro_batches[i].loss;
    return loss.defined() && !loss.isfinite().all().item<bool>();
  });
  return order;
}

}  // namespace

void StepSearch::explain(const StepReplay& step, Anomaly& anomaly) const {
  const auto count = std::ssize(step.micro_batches);
  anomaly.micro_batches = count;
  for (const std::size_t i : bad_losses_first(step)) {
    anomaly.origin = replayed(step, i);
    if (!anomaly.origin) continue;
    anomaly.micro_batch = static_cast<std::int64_t>(i) + 1;
    anomaly.batch = step.batch + static_cast<std::int64_t>(i);
    break;
  }
  if (!anomaly.origin)
    anomaly.note = count > 1 ? fmt::format(
                                   "each of the {} micro-batches has finite gradients, the sum of "
                                   "them is not finite",
                                   count)
                             : "a second pass was finite";
  anomaly.remedy = remedy_of(anomaly, precision_.policy());
  // What the module has counted and logged meanwhile belongs to no step.
  task_.module().take_tokens();
  task_.module().logged().take();
}

std::optional<NonFiniteOrigin> StepSearch::replayed(const StepReplay& step, std::size_t i) const {
  return find_first_non_finite(network(), [&]() -> torch::Tensor {
    const auto number = static_cast<std::int64_t>(i);
    torch::Tensor loss;
    const auto compute = [&] {
      replay_micro_batch(step, number, precision_, manual_ == nullptr,
                         [&] { loss = task_.training_step(number, precision_.batch_placement()); });
    };
    const ManualScope manual(task_.module(), manual_);
    if (manual_ != nullptr) {
      const torch::Tensor losses = manual_->collect_losses(compute);
      return losses.defined() ? losses : torch::zeros({}, torch::requires_grad());
    }
    compute();
    const double weight = task_.loss_weight(number);
    const auto count = std::ssize(step.micro_batches);
    return precision_.scaled(weight > 0.0 ? loss * (weight / count) : loss);
  });
}

}  // namespace halftone
