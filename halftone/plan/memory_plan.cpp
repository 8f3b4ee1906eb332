// SPDX-License-Identifier: Apache-2.0
#include "halftone/plan/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/data/prefetcher.h"
#include "halftone/kernels/optimizer/moments.h"
#include "halftone/machine/machine.h"
#include "halftone/optim/adamw_layout.h"
#include "halftone/plan/memory_plan_impl.h"
#include "halftone/system/block_pool.h"
#include "halftone/system/memory.h"
#include "halftone/system/system_pages.h"

namespace halftone {
namespace {

/// Of what tensors take at their most: freed blocks that wait for the next (system/block_pool.h).
constexpr double kWaiting = 1.0 / kWaitingPart;

/// Tokenizer, mapped tokens and the heaps of other threads, measured.
constexpr std::uint64_t kRunBytes = std::uint64_t{24} << 20U;

constexpr double kBytesOfBatchRow = 8 + 8 + 4;  // input, target, mask of a token

std::uint64_t whole(double bytes) { return static_cast<std::uint64_t>(std::max(0.0, bytes)); }

std::vector<ParameterShape> as_stored(std::vector<NamedShape> shapes,
                                      const NumericsConfig& recipe) {
  std::vector<ParameterShape> parameters;
  for (NamedShape& parameter : shapes) {
    const bool bf16 = recipe.memory.bf16_weights && !is_small_parameter(parameter.sizes);
    parameters.push_back({.sizes = std::move(parameter.sizes),
                          .dtype = bf16 ? torch::kBFloat16 : recipe.precision.parameter});
  }
  return parameters;
}

/// What the optimizer has, and what stands beside it because it does not learn.
struct StoredParameters {
  std::vector<ParameterShape> learning;
  std::vector<ParameterShape> frozen;
  std::vector<std::int64_t> block_of;  // AdamWShare's, of what is learning
};

/// N of "layers.N.attention.wq.weight".
std::int64_t block_of(const std::string& name) {
  constexpr std::string_view kBlocks = "layers.";
  return name.starts_with(kBlocks) ? std::stoll(name.substr(kBlocks.size())) : -1;
}

std::vector<std::int64_t> blocks_of(const std::vector<NamedShape>& shapes) {
  std::vector<std::int64_t> blocks;
  for (const NamedShape& shape : shapes) blocks.push_back(block_of(shape.name));
  return blocks;
}

StoredParameters stored_parameters(const ModelConfig& model, const NumericsConfig& recipe) {
  constexpr double kMost = 0x1p50;
  double numbers = 0;
  std::vector<NamedShape> shapes = parameter_shapes(model);
  for (const NamedShape& parameter : shapes) {
    double count = 1;
    for (const std::int64_t size : parameter.sizes) count *= static_cast<double>(size);
    if ((numbers += count) > kMost)
      throw UserError(
          fmt::format("model: expected at most 2^50 parameters, got more; choose smaller widths"));
  }
  if (recipe.lora.rank == 0) {
    std::vector<std::int64_t> blocks = blocks_of(shapes);
    return {as_stored(std::move(shapes), recipe), {}, std::move(blocks)};
  }
  std::vector<NamedShape> adapters = adapter_shapes(recipe.lora, model);
  std::vector<std::int64_t> blocks = blocks_of(adapters);
  return {as_stored(std::move(adapters), recipe), as_stored(std::move(shapes), recipe),
          std::move(blocks)};
}

/// As pack_frozen_parameters() lays them out.
std::uint64_t packed_bytes(const std::vector<ParameterShape>& parameters) {
  constexpr std::int64_t kLine = 64;
  std::int64_t bytes = 0;
  for (const ParameterShape& one : parameters) {
    const std::int64_t own =
        c10::multiply_integers(one.sizes) * static_cast<std::int64_t>(c10::elementSize(one.dtype));
    bytes += (own + kLine - 1) / kLine * kLine;
  }
  constexpr auto kPage = static_cast<std::int64_t>(kLargePageBytes);
  return static_cast<std::uint64_t>((bytes + kPage - 1) / kPage * kPage);
}

/// Of gradients that are there between two steps or on their way: all of them at the most. The own
/// piece of what is not sent yet is there anyway.
std::int64_t gradient_bytes(const AdamWShareBytes& own, std::int64_t processes,
                            const OptimizerBytes& whole) {
  const std::int64_t others = own.unsent - own.unsent / processes;
  return std::min(own.optimizer.gradients + others, whole.gradients);
}

/// Copies of two buckets travel once these are complete: what the forward pass has left for them is
/// gone then, and the copies have its place.
double copies_beside(double activations, const AdamWShareBytes& own) {
  if (own.buckets == 0) return 0;
  const double gone = std::min(1.0, 2.0 / static_cast<double>(own.buckets)) * activations;
  return std::max(0.0, static_cast<double>(own.under_way) - gone);
}

/// Of the process that takes the most.
AdamWShareBytes largest_share(const StoredParameters& parameters, const AdamWOptions& options,
                              AdamWShare share) {
  share.block_of = parameters.block_of;
  std::vector<AdamWShareBytes> all = adamw_share_bytes(parameters.learning, options, share);
  const auto kept = [](const AdamWShareBytes& one) {
    return one.optimizer.resident_states() + one.optimizer.gradients;
  };
  return *std::max_element(all.begin(), all.end(),
                           [&](const auto& a, const auto& b) { return kept(a) < kept(b); });
}

/// Copies of the gradients that GradientTree holds: one for each digit of the micro-batches that
/// are set aside, as a binary number.
std::int64_t tree_levels(const StepShape& shape) {
  const auto set_aside = static_cast<std::uint64_t>(shape.micro_batches - 1);
  return shape.tree_sum ? std::bit_width(set_aside) : 0;
}

}  // namespace

std::uint64_t unused_ends(const std::vector<AdamWBufferLayout>& layout,
                          const std::vector<std::int64_t>& room, const AdamWOptions& options) {
  constexpr auto kPage = static_cast<std::int64_t>(kLargePageBytes);
  std::int64_t unused = 0;
  const auto add = [&](std::int64_t size, torch::ScalarType dtype) {
    const std::int64_t bytes = size * static_cast<std::int64_t>(c10::elementSize(dtype));
    unused += (kPage - bytes % kPage) % kPage;
  };
  for (std::size_t b = 0; b < layout.size(); ++b) {
    const AdamWBufferLayout& buffer = layout[b];
    add(buffer.size, buffer.weights);
    if (!options.release_gradients) add(buffer.size, buffer.gradients);
    if (!options.offload.empty()) continue;
    for (int moment = 0; moment < 2; ++moment) {
      add(room[b], buffer.moments);
      if (buffer.moments == torch::kByte) add(moment_scales(room[b]), torch::kFloat);
    }
    if (buffer.master_low) add(room[b], *buffer.master_low);
  }
  return static_cast<std::uint64_t>(unused);
}

double waiting_bytes(double bytes) { return kWaiting * bytes; }

AdamWShareBytes largest_share(const ModelConfig& model, const NumericsConfig& recipe,
                              const AdamWShare& share) {
  return largest_share(stored_parameters(model, recipe), recipe.memory.adamw(), share);
}

MemoryBytes peak_memory(const ModelConfig& model, const StepShape& shape,
                        const NumericsConfig& recipe, std::uint64_t process,
                        const AdamWShare& share) {
  const StoredParameters all = stored_parameters(model, recipe);
  const std::vector<ParameterShape>& parameters = all.learning;
  const std::uint64_t frozen = packed_bytes(all.frozen);
  const AdamWOptions options = recipe.memory.adamw();
  const AdamWShareBytes own = largest_share(all, options, share);
  const OptimizerBytes& stored = own.optimizer;
  const OptimizerBytes unshared = adamw_bytes(parameters, options);
  const auto set_aside = static_cast<double>(tree_levels(shape) * unshared.gradients);
  const StepMemory step = step_memory(model, shape, recipe);
  const double packed = packed_operand_bytes(model, shape, recipe);
  const double rows =
      static_cast<double>(shape.batch_size) * static_cast<double>(shape.predictions);
  const double batches =
      rows * kBytesOfBatchRow *
      (static_cast<double>(kBatchesAhead + 1) + static_cast<double>(shape.micro_batches));
  const double under_way = copies_beside(step.activations, own);
  const MemoryBytes training{
      .weights = static_cast<std::uint64_t>(stored.weights + own.in_use) + frozen,
      .gradients = static_cast<std::uint64_t>(gradient_bytes(own, share.processes, unshared)),
      .states = static_cast<std::uint64_t>(stored.resident_states() +
                                           offload_chunk_bytes(parameters, options)),
      .activations = whole(step.activations),
      .workspace = whole(step.workspace + packed + batches + under_way + set_aside +
                         waiting_bytes(step.activations + step.workspace + under_way)) +
                   unused_ends(adamw_layout(parameters, options), own.room, options),
      .process = process,
      .disk = static_cast<std::uint64_t>(stored.disk)};
  const std::uint64_t all_weights = static_cast<std::uint64_t>(unshared.weights) + frozen;
  const MemoryBytes beginning{
      .weights = all_weights + static_cast<std::uint64_t>(parameter_count(model)) * sizeof(float),
      .process = process,
      .disk = training.disk};
  // Process 0, which writes a checkpoint, has all weights then, and no activations.
  const MemoryBytes saving{.weights = all_weights,
                           .gradients = static_cast<std::uint64_t>(stored.gradients),
                           .states = training.states,
                           .process = process,
                           .disk = training.disk};
  const auto takes_less = [](const MemoryBytes& a, const MemoryBytes& b) {
    return a.total() < b.total();
  };
  return std::max({training, beginning, saving}, takes_less);
}

std::uint64_t process_bytes() {
  release_free_memory();
  return resident_bytes() + kRunBytes;
}

std::uint64_t budget_bytes(const std::string& memory_budget) {
  constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();
  if (memory_budget == "unlimited") return kUnlimited;
  if (memory_budget != "available") return parse_bytes(memory_budget).value();
  const SystemMemory memory = system_memory();
  if (memory.available_bytes == 0) return kUnlimited;  // the system does not say
  return std::min(memory.available_bytes + resident_bytes(), memory_limit());
}

}  // namespace halftone
