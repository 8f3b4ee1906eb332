// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/tensorboard_logger.h"

#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <limits>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/log.h"

namespace halftone {
namespace {

constexpr std::int64_t kBuckets = 64;
constexpr std::int64_t kElementsAtOnce = std::int64_t{1} << 22U;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <class Use>
void for_each_part(const torch::Tensor& flat, Use use) {
  for (std::int64_t first = 0; first < flat.numel(); first += kElementsAtOnce)
    use(flat.slice(0, first, first + kElementsAtOnce).to(torch::kDouble));
}

// The least, the largest, count, sum and sum of squares of the finite elements of a part.
torch::Tensor totals_of(const torch::Tensor& part) {
  const torch::Tensor finite = part.isfinite();
  const torch::Tensor zeroed = part.where(finite, 0.0);
  return torch::stack({part.where(finite, kInfinity).min(), part.where(finite, -kInfinity).max(),
                       finite.sum().to(torch::kDouble), zeroed.sum(), zeroed.square().sum()});
}

// All of `flat`, with one wait for its device.
Distribution totals_of_all(const torch::Tensor& flat) {
  std::vector<torch::Tensor> parts;
  for_each_part(flat, [&](const torch::Tensor& part) { parts.push_back(totals_of(part)); });
  const torch::Tensor all = torch::stack(parts, 1).cpu();
  return {.least = all[0].min().item<double>(),
          .most = all[1].max().item<double>(),
          .count = all[2].sum().item<double>(),
          .sum = all[3].sum().item<double>(),
          .sum_of_squares = all[4].sum().item<double>(),
          .ends = {},
          .counts = {}};
}

// Neither the sum nor the difference of the two bounds need be finite.
std::vector<double> equal_widths(double least, double most) {
  std::vector<double> ends;
  for (std::int64_t i = 1; i < kBuckets; ++i) {
    const double share = static_cast<double>(i) / kBuckets;
    const double end = std::clamp(least * (1 - share) + most * share, least, most);
    ends.push_back(ends.empty() ? end : std::max(end, ends.back()));
  }
  ends.push_back(most);
  return ends;
}

std::vector<double> counts_in(const torch::Tensor& flat, const std::vector<double>& ends) {
  const auto buckets = static_cast<std::int64_t>(ends.size());
  const torch::Tensor inner =
      torch::tensor(std::vector<double>(ends.begin(), ends.end() - 1), torch::kDouble)
          .to(flat.device());
  torch::Tensor counts = torch::zeros({buckets + 1}, flat.options().dtype(torch::kLong));
  for_each_part(flat, [&](const torch::Tensor& part) {
    const torch::Tensor bucket = torch::bucketize(part, inner, /*out_int32=*/false, /*right=*/true);
    // What is not finite is counted behind the others.
    counts += torch::bincount(bucket.where(part.isfinite(), buckets), {}, buckets + 1);
  });
  const torch::Tensor on_host = counts.slice(0, 0, buckets).to(torch::kDouble).cpu();
  return {on_host.const_data_ptr<double>(), on_host.const_data_ptr<double>() + buckets};
}

std::string value_text(const StateDict::Value& value) {
  return std::visit([](const auto& one) { return fmt::format("{}", one); }, value);
}

// A cell of a Markdown table: what would end it or its line is spelt differently.
std::string cell(std::string_view text) {
  std::string escaped;
  for (const char letter : text) {
    if (letter == '|')
      escaped += "\\|";
    else
      escaped += letter == '\n' || letter == '\r' ? ' ' : letter;
  }
  return escaped;
}

}  // namespace

Distribution distribution_of(const torch::Tensor& values) {
  HALFTONE_CHECK(values.defined() && !values.is_complex(),
                 "[distribution_of] expected a tensor of real numbers");
  const torch::NoGradGuard no_gradients;
  const torch::Tensor strided =
      values.layout() == torch::kStrided ? values.detach() : values.detach().to_dense();
  const torch::Tensor flat = strided.reshape({-1});
  if (flat.numel() == 0) return {};
  Distribution found = totals_of_all(flat);
  if (found.count == 0) return {};
  found.ends = found.least == found.most ? std::vector<double>{found.most}
                                         : equal_widths(found.least, found.most);
  found.counts = counts_in(flat, found.ends);
  return found;
}

void TensorBoardLogger::open(const std::filesystem::path& folder, std::int64_t last_step) {
  first_step_ = last_step;
  events_.emplace(folder / "tensorboard", last_step);
}

EventFile& TensorBoardLogger::events() {
  HALFTONE_CHECK(events_, "[tensorboard_logger] expected open() before anything is logged");
  return *events_;
}

void TensorBoardLogger::log_metrics(std::int64_t step,
                                    const std::map<std::string, double>& values) {
  events().add_scalars(step, values);
}

void TensorBoardLogger::log_hyper_parameters(const StateDict& values) {
  std::string table = "| name | value |\n|---|---|\n";
  for (const auto& [name, value] : values.values)
    table += fmt::format("| {} | {} |\n", cell(name), cell(value_text(value)));
  events().add_text(first_step_, "hyper_parameters", table);
}

void TensorBoardLogger::log_text(std::int64_t step, const std::string& name,
                                 const std::string& text) {
  events().add_text(step, name, text);
}

void TensorBoardLogger::log_histogram(std::int64_t step, const std::string& name,
                                      const torch::Tensor& values) {
  EventFile& file = events();
  const Distribution distribution = distribution_of(values);
  const double others = static_cast<double>(values.numel()) - distribution.count;
  if (others > 0 && warned_of_.insert(name).second)
    log_warning(
        fmt::format("tensorboard: {:.0f} of the {} values of '{}' at step {} are not finite; its "
                    "histograms leave such values out",
                    others, values.numel(), name, step));
  if (distribution.count > 0) file.add_histogram(step, name, distribution);
}

void TensorBoardLogger::sync() {
  if (events_) events_->sync();
}

}  // namespace halftone
