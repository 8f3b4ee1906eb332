// SPDX-License-Identifier: Apache-2.0
// All that a forward pass of halftone's layers obeys beside their tensors and LibTorch's own modes,
// as one value. Autograd functions and recomputed blocks take a copy of it along, so that their
// backward pass obeys the same, on whatever thread autograd runs it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "halftone/core/document_ends.h"
#include "halftone/kernels/gemm/compute_type.h"

namespace halftone {

class LayerFormats;
class StoredWeights;
class WeightCache;
class WeightResidency;

/// The random streams of a forward pass's stochastic rounding, one for each layer that asks. Which
/// streams they are is a function of the seed and the pass. Copies draw from one sequence.
class RoundingStreams {
 public:
  RoundingStreams() = default;
  /// `pass`: no two forward passes of a run have the same.
  RoundingStreams(std::uint64_t seed, std::uint64_t pass);

  /// The stream of the next layer. All streams are 0 where no seed was given.
  std::uint64_t next() const;
  /// Draws what this one would draw from now on, independently of it: for a pass that runs again.
  RoundingStreams again() const;

 private:
  std::uint64_t seed_ = 0;
  std::uint64_t pass_ = 0;
  std::shared_ptr<std::atomic<std::uint64_t>> layers_;  // that have asked
};

struct ComputeContext {
  /// The format to which linear layers quantize their operands, where the dtype that they compute
  /// in is that format's tensor_dtype(). Formats that need no quantization change nothing.
  ComputeType compute = ComputeType::kFloat32;
  /// Formats of single layers (layer_formats.h), which go before `compute`; none: it is that of
  /// all.
  std::shared_ptr<const LayerFormats> layer_formats;
  /// Weights that are held narrower than the layers compute, for inference; none: all are as they
  /// come.
  std::shared_ptr<const StoredWeights> stored_weights;
  RoundingStreams streams;
  /// Whether models run their blocks again in the backward pass instead of keeping activations.
  bool recompute_blocks = false;
  /// Whether backward() may add weight gradients to .grad as they are computed
  /// (fused_grad_accumulation.h).
  bool fused_grad_accumulation = false;
  /// Where layers look for weights that are already in their format; none: they convert them.
  std::shared_ptr<WeightCache> weight_cache;
  /// Brings the weights of a block that is computed (nn/recompute.h); none: all are in memory.
  std::shared_ptr<WeightResidency> weight_residency;
  /// Whether layers leave out what their adapters add: the model is then the one that these were
  /// put beside (nn/linear.h).
  bool without_adapters = false;
  /// The documents of the rows that attention is over (document_attention.h); none: each row is
  /// one.
  std::shared_ptr<const DocumentEnds> documents;
};

/// That of the innermost scope in this thread; the defaults outside of all scopes.
const ComputeContext& compute_context();

/// compute_context(), computing in `compute`.
ComputeContext compute_context_in(ComputeType compute);

/// While it lives, `context` is in force in this thread. Scopes nest; a scope that changes one
/// member begins with a copy of compute_context().
class ComputeScope {
 public:
  explicit ComputeScope(ComputeContext context);
  ~ComputeScope();
  ComputeScope(const ComputeScope&) = delete;
  ComputeScope& operator=(const ComputeScope&) = delete;

 private:
  ComputeContext context_;
  const ComputeContext* outer_;
};

}  // namespace halftone
