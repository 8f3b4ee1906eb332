// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/text_loss.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "halftone/core/device.h"

namespace halftone {

TextLoss::TextLoss(const std::vector<std::int64_t>& token_bytes) {
  if (!token_bytes.empty()) bytes_of_ = torch::tensor(token_bytes, torch::kInt64);
}

void TextLoss::add(double cross_entropy, const TokenBatch& batch) {
  nats_ += cross_entropy * static_cast<double>(batch.tokens);
  tokens_ += batch.tokens;
  if (!bytes_of_.defined()) return;
  bytes_of_ = to_device(bytes_of_, batch.target_ids.device());
  bytes_ += (bytes_of_.index_select(0, batch.target_ids.flatten()) *
             batch.loss_mask.flatten().to(torch::kInt64))
                .sum()
                .item<std::int64_t>();
}

void TextLoss::add_up(ProcessGroup& group) {
  const std::vector<double> own{nats_, static_cast<double>(tokens_), static_cast<double>(bytes_)};
  nats_ = 0;
  tokens_ = bytes_ = 0;
  for (const std::vector<double>& one : all_gather_numbers(group, own)) {
    nats_ += one[0];
    tokens_ += static_cast<std::int64_t>(one[1]);
    bytes_ += static_cast<std::int64_t>(one[2]);
  }
}

double TextLoss::loss() const { return nats_ / static_cast<double>(tokens_); }

double TextLoss::perplexity() const {
  const double mean = loss();
  return std::isfinite(mean) ? std::min(std::exp(mean), std::numeric_limits<double>::max()) : mean;
}

double TextLoss::bits_per_byte() const {
  return nats_ / std::numbers::ln2 / static_cast<double>(bytes_);
}

}  // namespace halftone
