// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/sharded_weights.h"

#include <algorithm>
#include <iterator>
#include <sstream>
#include <string>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/scoped_value.h"
#include "halftone/system/memory.h"
#include "halftone/train/absent_weights_impl.h"

namespace halftone {
namespace {

void check_alike(bool are_alike) {
  if (!are_alike)
    throw UserError(
        "trainer: with shard parameters each pass runs the same blocks in the same order, on all "
        "processes, but this one has run others; choose shard gradients");
}

}  // namespace

ShardedWeights::ShardedWeights(const std::vector<const ParameterArena*>& arenas,
                               ProcessGroup& processes)
    : group_(processes.twin()), arenas_(arenas) {
  std::size_t first = 0;
  for (const ParameterArena* const arena : arenas) {
    shards_.push_back(std::make_unique<WeightShards>(*arena, *group_));
    first_of_.push_back(first);
    for (std::size_t i = 0; i < arena->size(); ++i)
      if (const torch::Tensor& weight = arena->parameter(i); weight.numel() > 0)
        parameter_at_[static_cast<const char*>(weight.const_data_ptr())] = {
            .arena = shards_.size() - 1, .index = i, .number = first + i, .bytes = weight.nbytes()};
    first += arena->size();
  }
}

const ShardedWeights::Parameter* ShardedWeights::parameter_of(const at::Tensor& tensor) const {
  if (!tensor.defined() || tensor.numel() == 0 || !tensor.has_storage()) return nullptr;
  const auto* const data = static_cast<const char*>(tensor.const_data_ptr());
  const auto behind = parameter_at_.upper_bound(data);
  if (behind == parameter_at_.begin()) return nullptr;
  const auto& [begin, parameter] = *std::prev(behind);
  return data < begin + parameter.bytes ? &parameter : nullptr;
}

std::optional<std::string> ShardedWeights::absent(const at::Tensor& tensor) const {
  const Parameter* const parameter = parameter_of(tensor);
  if (parameter == nullptr || shards_[parameter->arena]->is_complete(parameter->index))
    return std::nullopt;
  return arenas_[parameter->arena]->names()[parameter->index];
}

std::vector<std::size_t> ShardedWeights::known(const std::vector<at::Tensor>& parameters) const {
  std::vector<std::size_t> found;
  for (const at::Tensor& parameter : parameters) {
    if (const Parameter* const own = parameter_of(parameter)) found.push_back(own->number);
  }
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  return found;
}

std::vector<std::size_t> ShardedWeights::of_arena(const Use& use, std::size_t arena) const {
  const std::size_t first = first_of_[arena], end = first + arenas_[arena]->size();
  std::vector<std::size_t> own;
  for (const std::size_t i : use.parameters)
    if (i >= first && i < end) own.push_back(i - first);
  return own;
}

void ShardedWeights::bring(const Use& use) {
  for (std::size_t a = 0; a < shards_.size(); ++a) {
    if (use.holds)
      shards_[a]->unshard(of_arena(use, a));
    else
      shards_[a]->reshard(of_arena(use, a));
  }
}

// While a block runs, the weights of the next one come in, if it is the one of the last pass.
void ShardedWeights::prefetch_behind(std::size_t use) {
  if (before_ == nullptr) return;
  const auto holds = [](const Use& next) { return next.holds; };
  const auto from =
      before_->begin() + static_cast<std::ptrdiff_t>(std::min(use + 1, before_->size()));
  const auto next = std::find_if(from, before_->end(), holds);
  if (next == before_->end()) return;
  for (std::size_t a = 0; a < shards_.size(); ++a) shards_[a]->prefetch(of_arena(*next, a));
}

void ShardedWeights::apply(const Use& use) {
  const Unobserved unobserved;
  const std::size_t number = recording_.size();
  recording_.push_back(use);
  bring(use);
  if (use.holds) prefetch_behind(number);
}

void ShardedWeights::hold(const std::vector<at::Tensor>& parameters) {
  apply({true, known(parameters)});
}

void ShardedWeights::release(const std::vector<at::Tensor>& parameters) {
  apply({false, known(parameters)});
}

// A pass that begins with all weights shows only some of the wrong uses.
ShardedWeights::Uses ShardedWeights::recorded(const std::string& kind,
                                              const std::function<void()>& compute) {
  constexpr int kChecked = 2;
  const bool begins_whole = std::all_of(shards_.begin(), shards_.end(),
                                        [](const auto& one) { return one->is_complete(); });
  if (checked_[kind] < kChecked) {
    if (!begins_whole) ++checked_[kind];
    const auto reads = std::make_shared<AbsentWeights>(
        [this](const at::Tensor& tensor) { return absent(tensor); });
    {
      const Observation observation(reads);
      compute();
    }
    reads->check();
  } else {
    compute();
  }
  return std::exchange(recording_, {});
}

void ShardedWeights::go_through(const Uses& uses) {
  for (const Use& use : uses) apply(use);
  recording_.clear();
}

void ShardedWeights::pass(const std::string& kind, bool computes,
                          const std::function<void()>& compute) {
  recording_.clear();
  const auto uses = uses_.find(kind);
  if (uses == uses_.end()) return first_pass(kind, computes, compute);
  const Uses before = uses->second;
  const ScopedValue known(before_, &before);
  if (computes)
    check_alike(recorded(kind, compute) == before);
  else
    go_through(before);
  for (const auto& shards : shards_) shards->drop_prefetched();
}

// Who has no batch does not know yet what the others will need: then all need everything.
void ShardedWeights::first_pass(const std::string& kind, bool computes,
                                const std::function<void()>& compute) {
  const auto all = all_gather_numbers(*group_, {computes ? 1.0 : 0.0});
  const bool is_full =
      std::all_of(all.begin(), all.end(), [](const auto& one) { return one[0] != 0.0; });
  if (is_full) {
    const Uses own = recorded(kind, compute);
    uses_[kind] = *shared(own);
    check_alike(own == uses_[kind]);
    return;
  }
  complete();
  const Uses own = computes ? recorded(kind, compute) : Uses();
  const std::optional<Uses> uses = shared(computes ? std::optional(own) : std::nullopt);
  if (uses) uses_[kind] = *uses;
  if (computes) check_alike(own == *uses);
  if (!computes && uses) go_through(*uses);
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

// What the last step has freed makes room.
void ShardedWeights::complete(std::int64_t root) {
  release_free_memory();
  for (const auto& shards : shards_) shards->complete(root);
}

void ShardedWeights::drop_unused() {
  for (const auto& shards : shards_) shards->drop_unused();
}

}  // namespace halftone
