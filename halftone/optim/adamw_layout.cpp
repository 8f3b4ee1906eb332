// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/adamw_layout.h"

#include <algorithm>

#include "halftone/kernels/optimizer/moments.h"

namespace halftone {
namespace {

constexpr std::int64_t kAlignment = 64;       // bytes, of each parameter in its buffer
constexpr std::int64_t kCodeAlignment = 256;  // elements of a block of codes

std::int64_t bytes_of(torch::ScalarType dtype) {
  return static_cast<std::int64_t>(c10::elementSize(dtype));
}

torch::ScalarType moments_of(const ParameterShape& parameter, MomentStorage moments) {
  if (moments == MomentStorage::kFloat32 || is_small_parameter(parameter.sizes))
    return torch::kFloat;
  return moments == MomentStorage::kBFloat16 ? torch::kBFloat16 : torch::kByte;
}

std::optional<torch::ScalarType> master_low_of(const ParameterShape& parameter,
                                               MasterWeights master) {
  if (master == MasterWeights::kNone || parameter.dtype != torch::kBFloat16) return std::nullopt;
  return master == MasterWeights::kSplit16 ? torch::kShort : torch::kByte;
}

AdamWBufferLayout buffer_for(const ParameterShape& parameter, const AdamWOptions& options) {
  AdamWBufferLayout buffer;
  buffer.device = parameter.device;
  buffer.weights = parameter.dtype;
  buffer.gradients = options.fp32_gradients ? torch::kFloat : parameter.dtype;
  buffer.moments = moments_of(parameter, options.moments);
  buffer.master_low = master_low_of(parameter, options.master);
  return buffer;
}

// Of moments and master.
std::int64_t state_bytes(const AdamWBufferLayout& buffer, std::int64_t elements) {
  OptimizerBytes bytes;
  add_state_bytes(buffer, elements, bytes);
  return bytes.moments + bytes.master;
}

// That one call takes: of a whole buffer, or a parameter by itself.
std::int64_t longest_range(const AdamWBufferLayout& buffer,
                           const std::vector<ParameterShape>& parameters, bool one_by_one) {
  if (!one_by_one) return buffer.size;
  std::int64_t longest = 0;
  for (const std::size_t i : buffer.parameters)
    longest = std::max(longest, c10::multiply_integers(parameters[i].sizes));
  return longest;
}

bool same_kind(const AdamWBufferLayout& a, const AdamWBufferLayout& b) {
  return a.device == b.device && a.weights == b.weights && a.moments == b.moments;
}

}  // namespace

bool is_small_parameter(at::IntArrayRef sizes) {
  constexpr std::int64_t kLeastElements = 4096;
  return sizes.size() < 2 || c10::multiply_integers(sizes) < kLeastElements;
}

std::vector<AdamWBufferLayout> adamw_layout(const std::vector<ParameterShape>& parameters,
                                            const AdamWOptions& options) {
  std::vector<AdamWBufferLayout> buffers;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const AdamWBufferLayout fresh = buffer_for(parameters[i], options);
    auto buffer = std::find_if(buffers.begin(), buffers.end(),
                               [&](const auto& other) { return same_kind(other, fresh); });
    if (buffer == buffers.end()) buffer = buffers.insert(buffers.end(), fresh);
    const std::int64_t unit =
        fresh.moments == torch::kByte ? kCodeAlignment : kAlignment / bytes_of(fresh.weights);
    buffer->parameters.push_back(i);
    buffer->offsets.push_back(buffer->size);
    buffer->size += (c10::multiply_integers(parameters[i].sizes) + unit - 1) / unit * unit;
  }
  return buffers;
}

std::int64_t in_whole_code_blocks(std::int64_t elements) {
  return (elements + kCodeAlignment - 1) / kCodeAlignment * kCodeAlignment;
}

void add_state_bytes(const AdamWBufferLayout& layout, std::int64_t elements,
                     OptimizerBytes& bytes) {
  bytes.moments += 2 * elements * bytes_of(layout.moments);
  if (layout.moments == torch::kByte)
    bytes.moments += 2 * moment_scales(elements) * bytes_of(torch::kFloat);
  if (layout.master_low) bytes.master += elements * bytes_of(*layout.master_low);
}

OptimizerBytes adamw_bytes(const std::vector<ParameterShape>& parameters,
                           const AdamWOptions& options) {
  OptimizerBytes bytes;
  for (const AdamWBufferLayout& buffer : adamw_layout(parameters, options)) {
    bytes.weights += buffer.size * bytes_of(buffer.weights);
    if (!options.release_gradients) bytes.gradients += buffer.size * bytes_of(buffer.gradients);
    add_state_bytes(buffer, buffer.size, bytes);
  }
  if (!options.offload.empty()) bytes.disk = bytes.moments + bytes.master;
  return bytes;
}

std::int64_t offload_chunk_bytes(const std::vector<ParameterShape>& parameters,
                                 const AdamWOptions& options) {
  if (options.offload.empty()) return 0;
  std::int64_t most = 0;
  for (const AdamWBufferLayout& buffer : adamw_layout(parameters, options)) {
    const std::int64_t range = longest_range(buffer, parameters, options.release_gradients);
    most = std::max(most, state_bytes(buffer, std::min(range, kOffloadChunk)));
  }
  return most;
}

}  // namespace halftone
