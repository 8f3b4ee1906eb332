// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/adamw_share.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/optim/gradient_buckets.h"
#include "halftone/optim/piece_rows.h"

namespace halftone {
namespace {

std::int64_t item_bytes(torch::ScalarType dtype) {
  return static_cast<std::int64_t>(c10::elementSize(dtype));
}

std::int64_t elements_in(const Range& range) { return range.end - range.begin; }

/// As the optimizer's own, without data.
ParameterArena arena_without_data(const std::vector<ParameterShape>& parameters,
                                  const std::vector<AdamWBufferLayout>& layouts,
                                  const AdamWOptions& options) {
  std::vector<TiedParameter> tied;
  for (std::size_t i = 0; i < parameters.size(); ++i)
    tied.push_back(
        {"p" + std::to_string(i),
         {at::empty(parameters[i].sizes, torch::dtype(parameters[i].dtype).device(torch::kMeta))
              .set_requires_grad(true)}});
  std::vector<ArenaBufferLayout> places(layouts.begin(), layouts.end());
  for (ArenaBufferLayout& place : places) place.device = torch::kMeta;
  return {std::move(tied), places, {.fp32_gradients = options.fp32_gradients}};
}

/// What two GradientSums in a row hold: copies sent and received, and the sum in fp32.
struct Transit {
  std::int64_t copies = 0;  // of one
  std::int64_t sum = 0;
  std::int64_t gradients = 0;
};

Transit transit_of(const GradientBucket& bucket, const AdamWBufferLayout& layout,
                   const AdamWShare& share) {
  const torch::ScalarType dtype = dtype_under_way(layout.gradients, share.transport);
  const std::int64_t elements = share.processes * longest_piece(bucket.pieces);
  return {.copies = 2 * elements * item_bytes(dtype),
          .sum = dtype == torch::kFloat ? 0 : elements * item_bytes(torch::kFloat),
          .gradients = elements_in(bucket.range) * item_bytes(dtype)};
}

/// Whether a parameter of the bucket belongs to no block.
bool is_in_use_always(const GradientBucket& bucket, const AdamWShare& share) {
  return std::any_of(bucket.parameters.begin(), bucket.parameters.end(),
                     [&](std::size_t i) { return share.block_of.at(i) < 0; });
}

/// The same in all processes.
AdamWShareBytes bytes_under_way(const std::vector<GradientBucket>& buckets,
                                const std::vector<AdamWBufferLayout>& layouts,
                                const AdamWShare& share) {
  AdamWShareBytes bytes{.buckets = std::ssize(buckets)};
  std::int64_t unsent_before = 0;
  Transit before;
  for (const GradientBucket& bucket : buckets) {
    const AdamWBufferLayout& layout = layouts[bucket.buffer];
    const Transit own = transit_of(bucket, layout, share);
    const std::int64_t unsent = elements_in(bucket.range) * item_bytes(layout.gradients);
    bytes.under_way =
        std::max(bytes.under_way, before.copies + own.copies + std::max(before.sum, own.sum));
    if (share.gradients) bytes.unsent = std::max(bytes.unsent, unsent_before + unsent);
    bytes.gradients_in_transit += own.gradients;
    const bool stays = share.weights && is_in_use_always(bucket, share);
    (stays ? bytes.weights_behind : bytes.weights_in_transit) +=
        elements_in(bucket.range) * item_bytes(layout.weights);
    bytes.last_bucket = own.gradients;
    before = own;
    unsent_before = unsent;
  }
  return bytes;
}

/// What the process of this rank keeps of the states and gradients.
void add_own_pieces(const std::vector<GradientBucket>& buckets, std::size_t rank,
                    const std::vector<AdamWBufferLayout>& layouts, const AdamWShare& share,
                    AdamWShareBytes& bytes) {
  bytes.room.assign(layouts.size(), 0);
  bytes.optimizer.moments = bytes.optimizer.master = 0;
  if (share.gradients) bytes.optimizer.gradients = 0;
  if (share.weights) bytes.optimizer.weights = 0;
  for (const GradientBucket& bucket : buckets) {
    const AdamWBufferLayout& layout = layouts[bucket.buffer];
    const std::int64_t own = elements_in(bucket.pieces[rank]);
    add_state_bytes(layout, own, bytes.optimizer);
    bytes.room[bucket.buffer] += in_whole_code_blocks(own);
    if (share.gradients) bytes.optimizer.gradients += own * item_bytes(layout.gradients);
    if (share.weights) bytes.optimizer.weights += own * item_bytes(layout.weights);
  }
}

/// What the process of this rank completes of the buckets that are in use with a block, and with
/// the next one, whose weights come in meanwhile.
std::int64_t others_in_use(const std::vector<GradientBucket>& buckets, std::size_t rank,
                           const std::vector<AdamWBufferLayout>& layouts, const AdamWShare& share,
                           std::int64_t block) {
  std::int64_t bytes = 0;
  for (const GradientBucket& bucket : buckets) {
    const auto is_used = [&](std::size_t parameter) {
      const std::int64_t own = share.block_of.at(parameter);
      return own < 0 || own == block || own == block + 1;
    };
    if (std::none_of(bucket.parameters.begin(), bucket.parameters.end(), is_used)) continue;
    const std::int64_t others = elements_in(bucket.range) - elements_in(bucket.pieces[rank]);
    bytes += others * item_bytes(layouts[bucket.buffer].weights);
  }
  return bytes;
}

}  // namespace

std::vector<AdamWShareBytes> adamw_share_bytes(const std::vector<ParameterShape>& parameters,
                                               const AdamWOptions& options,
                                               const AdamWShare& share) {
  HALFTONE_CHECK(share.processes >= 1 && (share.states || !share.gradients) &&
                     (share.gradients || !share.weights),
                 "[adamw_share] expected a process or more, gradients shared with states, and "
                 "weights with gradients");
  const std::vector<AdamWBufferLayout> layouts = adamw_layout(parameters, options);
  AdamWShareBytes whole{.optimizer = adamw_bytes(parameters, options)};
  for (const AdamWBufferLayout& layout : layouts) whole.room.push_back(layout.size);
  if (share.processes == 1) return {whole};
  HALFTONE_CHECK(!options.release_gradients,
                 "[adamw_share] expected gradients that are kept until the step");
  const ParameterArena arena = arena_without_data(parameters, layouts, options);
  const std::vector<GradientBucket> buckets = gradient_buckets(arena, share.processes);
  AdamWShareBytes common = bytes_under_way(buckets, layouts, share);
  common.optimizer = whole.optimizer;
  common.room = whole.room;
  std::vector<AdamWShareBytes> all(static_cast<std::size_t>(share.processes), common);
  std::set<std::int64_t> blocks;
  if (share.weights) blocks.insert(share.block_of.begin(), share.block_of.end());
  for (std::size_t rank = 0; share.states && rank < all.size(); ++rank) {
    add_own_pieces(buckets, rank, layouts, share, all[rank]);
    for (const std::int64_t block : blocks)
      all[rank].in_use =
          std::max(all[rank].in_use, others_in_use(buckets, rank, layouts, share, block));
    OptimizerBytes& own = all[rank].optimizer;
    if (!options.offload.empty()) own.disk = own.moments + own.master;
  }
  return all;
}

}  // namespace halftone
