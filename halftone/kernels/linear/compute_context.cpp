// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/linear/compute_context.h"

#include <utility>

#include "halftone/core/random.h"

namespace halftone {
namespace {

thread_local const ComputeContext* innermost_context = nullptr;

}  // namespace

RoundingStreams::RoundingStreams(std::uint64_t seed, std::uint64_t pass)
    : seed_(seed), pass_(pass), layers_(std::make_shared<std::atomic<std::uint64_t>>(0)) {}

std::uint64_t RoundingStreams::next() const {
  return layers_ ? random_word(random_word(seed_, pass_), (*layers_)++) : 0;
}

RoundingStreams RoundingStreams::again() const {
  if (!layers_) return {};
  RoundingStreams other(seed_, pass_);
  *other.layers_ = layers_->load();
  return other;
}

const ComputeContext& compute_context() {
  static const ComputeContext defaults;
  return innermost_context != nullptr ? *innermost_context : defaults;
}

ComputeContext compute_context_in(ComputeType compute) {
  ComputeContext context = compute_context();
  context.compute = compute;
  return context;
}

ComputeScope::ComputeScope(ComputeContext context)
    : context_(std::move(context)), outer_(std::exchange(innermost_context, &context_)) {}

ComputeScope::~ComputeScope() { innermost_context = outer_; }

}  // namespace halftone
