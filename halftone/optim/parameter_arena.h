// SPDX-License-Identifier: Apache-2.0
// The memory of the parameters that an optimizer updates, and of their gradients: a few flat
// tensors, each parameter at a place of its own.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "halftone/kernels/optimizer/gradient_stats.h"

namespace halftone {

/// The gradients as they are (scaled, if the loss was), on the device.
struct GradientStats {
  torch::Tensor norm_squared;  // fp64 scalar; inf or nan when an element is not finite
  torch::Tensor non_finite;    // int64 (number of parameters): elements that are inf or nan
};

struct ParameterShape {
  std::vector<std::int64_t> sizes;
  torch::ScalarType dtype = torch::kFloat;
  torch::Device device = torch::kCPU;
};

/// A parameter: all tensors that are it, more than one where tensors share memory.
struct TiedParameter {
  std::string name;
  std::vector<torch::Tensor> variables;
};

/// The parameters in the order of their first tensors, under the names of these. Throws c10::Error
/// for a tensor that is undefined, sparse or no leaf, for a dtype that is not fp32, bf16 or fp16,
/// and for parameters that overlap in memory.
std::vector<TiedParameter> tied_parameters(
    std::vector<std::pair<std::string, torch::Tensor>> named_parameters);

std::vector<ParameterShape> shapes_of(const std::vector<TiedParameter>& parameters);

/// (size) zeros that every step reads and writes from end to end: on large pages on the CPU.
torch::Tensor flat_zeros(std::int64_t size, torch::ScalarType dtype, torch::Device device);

/// Parameters of one device and dtype, one after the other in a buffer.
struct ArenaBufferLayout {
  torch::Device device = torch::kCPU;
  torch::ScalarType weights = torch::kFloat;
  torch::ScalarType gradients = torch::kFloat;
  std::int64_t size = 0;                // elements, with the gaps that align parameters
  std::vector<std::size_t> parameters;  // in the order of `offsets`
  std::vector<std::int64_t> offsets;    // in elements
};

/// Bytes of gradients that travel together, at least: enough to keep a network busy, few enough
/// that most of them leave before the backward pass is over.
inline constexpr std::int64_t kBucketBytes = std::int64_t{8} << 20U;

/// How gradients are kept.
struct ArenaOptions {
  bool fp32_gradients = false;     // of 16-bit weights: autograd adds up in fp32
  bool sharded_gradients = false;  // most of a buffer is empty between steps: it takes no memory
  bool release_gradients = false;  // they have no buffer and stand in .grad until they are dropped
  std::int64_t bucket_bytes = kBucketBytes;
};

/// Moves parameters into flat buffers and presets their gradients to views of others. A gradient
/// that was replaced is copied in when it is asked for; one that nothing has written to since
/// zero_grad() is none, and neither is that of a frozen parameter (requires_grad = false).
/// A parameter may be frozen and unfrozen between steps. Parameters go by their index.
class ParameterArena {
 public:
  struct Buffer {
    torch::Tensor weights;    // flat
    torch::Tensor gradients;  // flat; undefined when they are released
    std::vector<std::size_t> parameters;
  };
  struct Place {
    std::size_t buffer = 0;
    Range range;
  };

  /// No parameters.
  ParameterArena() = default;
  /// On the CPU the buffers lie on large pages.
  ParameterArena(std::vector<TiedParameter> parameters,
                 const std::vector<ArenaBufferLayout>& layouts, const ArenaOptions& options);

  std::size_t size() const { return slots_.size(); }
  const std::vector<std::string>& names() const { return names_; }
  const torch::Tensor& parameter(std::size_t index) const { return variables(index).front(); }
  const std::vector<torch::Tensor>& variables(std::size_t index) const {
    return slots_.at(index).variables;
  }
  const std::vector<Buffer>& buffers() const { return buffers_; }
  std::int64_t bucket_bytes() const { return options_.bucket_bytes; }
  Place place(std::size_t index) const;
  /// The part of a tensor as long as the parameter's buffer that is the parameter's, in its shape.
  torch::Tensor view(const torch::Tensor& flat, std::size_t index) const;

  /// Throws c10::Error if the parameter has left its buffer.
  void check_in_place(std::size_t index) const;

  /// Whether a gradient has come since zero_grad().
  bool has_gradient(std::size_t index) const;
  /// has_gradient(), where gradients have a buffer: brings what stands in .grad into it.
  bool collect_gradient(std::size_t index) const;
  /// Makes what its place in the buffer holds the gradient, as another process's may be.
  void note_gradient(std::size_t index) const;
  /// What stands in .grad, flat and in the gradients' dtype; undefined when there is nothing.
  torch::Tensor loose_gradient(std::size_t index) const;
  /// Leaves .grad undefined until zero_grad().
  void drop_gradient(std::size_t index) const;
  /// Sets the gradients to zero and keeps them where they are. Those of frozen parameters, and
  /// those that are to be released, become undefined.
  void zero_grad();

  /// One read of the gradients; the same bits for any number of threads. Nothing waits.
  GradientStats stats() const;
  /// Those of one parameter: one range. On the device of the first one.
  RangeStats stats(std::size_t index) const;

 private:
  struct Slot {
    std::size_t buffer = 0;
    std::int64_t offset = 0;
    std::int64_t numel = 0;
    std::vector<torch::Tensor> variables;
    torch::Tensor weight;                 // view
    torch::Tensor gradient;               // view; undefined when gradients are released
    mutable std::uint32_t untouched = 0;  // the gradient's version while nothing has come
  };

  void attach(std::size_t index);
  void attach_gradient(const torch::Tensor& variable, const Slot& slot) const;
  void preset_gradient(const torch::Tensor& variable, const Slot& slot) const;
  void set_gradient_dtype(const torch::Tensor& variable) const;
  void clear_gradient(const Slot& slot) const;
  bool has_arrived(const Slot& slot) const;
  GradientStats buffered_stats() const;
  GradientStats loose_stats() const;

  ArenaOptions options_;
  std::vector<std::string> names_;
  std::vector<Slot> slots_;
  std::vector<Buffer> buffers_;
};

}  // namespace halftone
