// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/sharded_weights.h"

#include <algorithm>
#include <sstream>
#include <string>
#include <utility>

#include "halftone/core/error.h"

namespace halftone {

ShardedWeights::ShardedWeights(const std::vector<const ParameterArena*>& arenas,
                               ProcessGroup& processes)
    : group_(processes.twin()) {
  std::size_t first = 0;
  for (const ParameterArena* const arena : arenas) {
    shards_.push_back(std::make_unique<WeightShards>(*arena, *group_));
    first_of_.push_back(first);
    for (std::size_t i = 0; i < arena->size(); ++i)
      if (const torch::Tensor& weight = arena->parameter(i); weight.numel() > 0)
        parameter_at_[weight.const_data_ptr()] = first + i;
    first += arena->size();
  }
}

std::vector<std::size_t> ShardedWeights::known(const std::vector<at::Tensor>& parameters) const {
  std::vector<std::size_t> found;
  for (const at::Tensor& parameter : parameters) {
    if (!parameter.defined() || parameter.numel() == 0) continue;
    const auto at = parameter_at_.find(parameter.const_data_ptr());
    if (at != parameter_at_.end()) found.push_back(at->second);
  }
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  return found;
}

void ShardedWeights::apply(const Use& use) {
  for (std::size_t a = 0; a < shards_.size(); ++a) {
    const bool is_last = a + 1 == shards_.size();
    std::vector<std::size_t> own;
    for (const std::size_t i : use.parameters)
      if (i >= first_of_[a] && (is_last || i < first_of_[a + 1])) own.push_back(i - first_of_[a]);
    if (own.empty()) continue;
    if (use.holds)
      shards_[a]->unshard(own);
    else
      shards_[a]->reshard(own);
  }
}

void ShardedWeights::hold(const std::vector<at::Tensor>& parameters) {
  recording_.push_back({true, known(parameters)});
  apply(recording_.back());
}

void ShardedWeights::release(const std::vector<at::Tensor>& parameters) {
  recording_.push_back({false, known(parameters)});
  apply(recording_.back());
}

ShardedWeights::Uses ShardedWeights::recorded(const std::function<void()>& compute) {
  recording_.clear();
  compute();
  return std::exchange(recording_, {});
}

void ShardedWeights::pass(const std::string& kind, bool computes,
                          const std::function<void()>& compute) {
  const auto uses = uses_.find(kind);
  if (uses == uses_.end()) return first_pass(kind, computes, compute);
  if (computes)
    uses->second = recorded(compute);
  else
    for (const Use& use : uses->second) apply(use);
}

// Who has no batch does not know yet what the others will need: then all need everything.
void ShardedWeights::first_pass(const std::string& kind, bool computes,
                                const std::function<void()>& compute) {
  const auto all = all_gather_numbers(*group_, {computes ? 1.0 : 0.0});
  const bool is_full =
      std::all_of(all.begin(), all.end(), [](const auto& one) { return one[0] != 0.0; });
  if (is_full) {
    uses_[kind] = recorded(compute);
    return;
  }
  complete();
  const Uses own = computes ? recorded(compute) : Uses();
  const std::optional<Uses> uses = shared(computes ? std::optional(own) : std::nullopt);
  if (uses) uses_[kind] = *uses;
  if (!computes && uses)
    for (const Use& use : *uses) apply(use);
  drop_unused();
}

// That of the first process that has one.
std::optional<ShardedWeights::Uses> ShardedWeights::shared(const std::optional<Uses>& own) {
  std::ostringstream text;
  if (own) {
    text << own->size();
    for (const Use& use : *own) {
      text << ' ' << use.holds << ' ' << use.parameters.size();
      for (const std::size_t i : use.parameters) text << ' ' << i;
    }
  }
  for (const std::string& one : group_->all_gather(text.str())) {
    if (one.empty()) continue;
    std::istringstream words(one);
    std::size_t count = 0;
    words >> count;
    Uses uses(count);
    for (Use& use : uses) {
      words >> use.holds >> count;
      use.parameters.resize(count);
      for (std::size_t& i : use.parameters) words >> i;
    }
    return uses;
  }
  return std::nullopt;
}

void ShardedWeights::check_use() const {
  const auto brings = [](const auto& kind) { return !kind.second.empty(); };
  if (!uses_.empty() && std::none_of(uses_.begin(), uses_.end(), brings))
    throw UserError(
        "trainer: shard parameters keeps the weights of a block in memory while it runs, but no "
        "part of this module is run through halftone::recompute(); run its blocks so, or choose "
        "shard gradients");
}

void ShardedWeights::refresh() {
  for (const auto& shards : shards_) shards->refresh();
}

void ShardedWeights::complete(std::int64_t root) {
  for (const auto& shards : shards_) shards->complete(root);
}

void ShardedWeights::drop_unused() {
  for (const auto& shards : shards_) shards->drop_unused();
}

}  // namespace halftone
