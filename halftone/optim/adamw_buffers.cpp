// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/adamw_buffers.h"

#include <algorithm>
#include <array>

#include "halftone/core/error.h"
#include "halftone/kernels/optimizer/moments.h"
#include "halftone/system/file_memory.h"
#include "halftone/system/system_pages.h"

namespace halftone {
namespace {

using Member = torch::Tensor AdamWTensors::*;

constexpr std::array<Member, 5> kStates = {
    &AdamWTensors::exp_avg, &AdamWTensors::exp_avg_sq, &AdamWTensors::exp_avg_scale,
    &AdamWTensors::exp_avg_sq_scale, &AdamWTensors::master_low};

struct State {
  Member tensor;
  std::int64_t size;
  torch::ScalarType dtype;
  std::int64_t bytes() const { return size * static_cast<std::int64_t>(c10::elementSize(dtype)); }
};

std::vector<State> states_of(const AdamWBufferLayout& layout) {
  std::vector<State> states = {{&AdamWTensors::exp_avg, layout.size, layout.moments},
                               {&AdamWTensors::exp_avg_sq, layout.size, layout.moments}};
  if (layout.moments == torch::kByte) {
    const std::int64_t scales = moment_scales(layout.size);
    states.push_back({&AdamWTensors::exp_avg_scale, scales, torch::kFloat});
    states.push_back({&AdamWTensors::exp_avg_sq_scale, scales, torch::kFloat});
  }
  if (layout.master_low)
    states.push_back({&AdamWTensors::master_low, layout.size, *layout.master_low});
  return states;
}

// What a tensor takes in the file: no page holds two of them.
std::int64_t room_for(const State& state) {
  return static_cast<std::int64_t>(whole_pages(static_cast<std::size_t>(state.bytes())));
}

std::int64_t room_of(const Range& range) { return in_whole_code_blocks(range.end - range.begin); }

std::int64_t elements_of(const std::vector<Range>& ranges) {
  if (ranges.size() == 1 && ranges.front().begin == 0) return ranges.front().end;
  std::int64_t elements = 0;
  for (const Range& range : ranges) elements += room_of(range);
  return elements;
}

torch::Tensor room_in_file(const std::vector<AdamWBufferLayout>& layouts,
                           const std::filesystem::path& folder) {
  std::int64_t bytes = 0;
  for (const AdamWBufferLayout& layout : layouts) {
    HALFTONE_CHECK(layout.device.is_cpu(),
                   "[adamw] expected parameters on the CPU, whose states can be offloaded, got ",
                   layout.device);
    for (const State& state : states_of(layout)) bytes += room_for(state);
  }
  return zeros_in_file(folder, bytes);
}

}  // namespace

std::vector<AdamWPart> adamw_parts(const ParameterArena& arena, const ArenaShards& shards,
                                   std::vector<AdamWBufferLayout> layouts,
                                   const std::filesystem::path& offload) {
  for (std::size_t b = 0; b < layouts.size(); ++b) layouts[b].size = elements_of(shards.owned(b));
  torch::Tensor file;
  if (!offload.empty()) file = room_in_file(layouts, offload);
  std::int64_t taken = 0;
  std::vector<AdamWPart> parts;
  for (std::size_t b = 0; b < layouts.size(); ++b) {
    AdamWTensors states;
    for (const State& state : states_of(layouts[b])) {
      if (!file.defined()) {
        states.*state.tensor = flat_zeros(state.size, state.dtype, layouts[b].device);
        continue;
      }
      states.*state.tensor = file.narrow(0, taken, state.bytes()).view(state.dtype);
      taken += room_for(state);
    }
    std::int64_t at = 0;
    for (const Range& range : shards.owned(b)) {
      const std::int64_t size = range.end - range.begin;
      AdamWPart part{.buffer = b, .range = range, .tensors = part_of(states, {at, at + size})};
      const auto own = [&](const torch::Tensor& flat) {
        return flat.defined() ? flat.narrow(0, range.begin, size) : flat;
      };
      part.tensors.weights = own(arena.buffers()[b].weights);
      part.tensors.gradients = own(arena.buffers()[b].gradients);
      parts.push_back(std::move(part));
      at += room_of(range);
    }
  }
  return parts;
}

AdamWTensors part_of(const AdamWTensors& tensors, const Range& range) {
  const std::int64_t size = range.end - range.begin;
  const auto part = [&](const torch::Tensor& flat) {
    return flat.defined() ? flat.narrow(0, range.begin, size) : flat;
  };
  const auto scales = [&](const torch::Tensor& all) {
    return all.defined() ? all.narrow(0, moment_scales(range.begin), moment_scales(size)) : all;
  };
  return {part(tensors.weights),    part(tensors.gradients),       part(tensors.exp_avg),
          part(tensors.exp_avg_sq), scales(tensors.exp_avg_scale), scales(tensors.exp_avg_sq_scale),
          part(tensors.master_low)};
}

AdamWPart part_of(const AdamWPart& part, const Range& range) {
  const Range inside{range.begin - part.range.begin, range.end - part.range.begin};
  return {.buffer = part.buffer, .range = range, .tensors = part_of(part.tensors, inside)};
}

void adamw_in_chunks_(const AdamWTensors& tensors, const AdamWArguments& arguments) {
  if (!lies_in_file(tensors.exp_avg)) return adamw_(tensors, arguments);
  const std::int64_t size = tensors.weights.numel();
  const auto chunk_at = [&](std::int64_t begin) {
    return part_of(tensors, {begin, std::min(size, begin + kOffloadChunk)});
  };
  const auto request = [&](std::int64_t begin) {
    if (begin >= size) return;
    const AdamWTensors chunk = chunk_at(begin);
    for (const Member state : kStates) request_pages(chunk.*state);
  };
  request(0);
  for (std::int64_t begin = 0; begin < size; begin += kOffloadChunk) {
    request(begin + kOffloadChunk);
    const AdamWTensors chunk = chunk_at(begin);
    AdamWArguments own = arguments;
    own.first_index += begin;
    adamw_(chunk, own);
    for (const Member state : kStates) release_pages(chunk.*state);
  }
}

}  // namespace halftone
