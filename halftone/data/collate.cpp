// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/collate.h"

#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "halftone/core/sequence_mask.h"

namespace halftone {
namespace {

std::string description(const torch::Tensor& tensor) {
  if (!tensor.defined()) return "an undefined tensor";
  return fmt::format("{} ({}) on {}", c10::toString(tensor.scalar_type()),
                     fmt::join(tensor.sizes(), ", "), tensor.device().str());
}

bool is_alike(const torch::Tensor& a, const torch::Tensor& b) {
  return a.defined() && b.defined() && a.scalar_type() == b.scalar_type() &&
         a.device() == b.device();
}

// A value that the dtype does not have would become another one unsaid.
void check_has_value(torch::ScalarType dtype, double value) {
  const torch::Tensor stored = at::full({}, value, torch::kDouble).to(dtype).to(torch::kDouble);
  HALFTONE_CHECK(c10::isFloatingType(dtype) || stored.item<double>() == value,
                 "[pad_sequences] expected a padding value that ", c10::toString(dtype),
                 " has, got ", value);
}

}  // namespace

torch::Tensor stack_samples(const std::vector<torch::Tensor>& samples) {
  HALFTONE_CHECK(!samples.empty(), "[collate] expected at least one sample, got none");
  const torch::Tensor& first = samples.front();
  for (std::size_t i = 0; i < samples.size(); ++i)
    if (!is_alike(samples[i], first) || samples[i].sizes() != first.sizes())
      throw UserError(fmt::format(
          "cannot stack the samples of a batch: expected {} as of sample 0, got {} of sample {}; "
          "give the data set equal ones, or the loader a collate function, which may pad_sequences",
          description(first), description(samples[i]), i));
  return at::stack(samples);
}

PaddedSequences pad_sequences(std::span<const torch::Tensor> sequences, double padding_value) {
  HALFTONE_CHECK(!sequences.empty(), "[pad_sequences] expected at least one sequence, got none");
  const torch::Tensor& first = sequences.front();
  std::vector<std::int64_t> lengths;
  for (const torch::Tensor& one : sequences) {
    if (!is_alike(one, first) || one.dim() < 1 || first.dim() < 1 ||
        one.sizes().slice(1) != first.sizes().slice(1))
      throw UserError(fmt::format(
          "cannot pad the sequences of a batch: expected all as sequence 0, {}, but for the first "
          "dimension, got {} of sequence {}",
          description(first), description(one), lengths.size()));
    lengths.push_back(one.size(0));
  }
  check_has_value(first.scalar_type(), padding_value);
  const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  std::vector<std::int64_t> shape = first.sizes().vec();
  shape.front() = longest;
  shape.insert(shape.begin(), std::ssize(sequences));

  PaddedSequences batch;
  batch.padded = at::full(shape, padding_value, first.options().requires_grad(false));
  for (std::int64_t i = 0; i < std::ssize(sequences); ++i) {
    const auto at = static_cast<std::size_t>(i);
    batch.padded.select(0, i).narrow(0, 0, lengths[at]).copy_(sequences[at]);
  }
  batch.lengths = at::tensor(lengths, torch::kLong).to(first.device());
  batch.mask = sequence_mask(batch.lengths, longest);
  return batch;
}

void check_equal_parts(const char* parts, std::size_t expected, std::size_t size,
                       std::size_t sample) {
  if (size != expected)
    throw UserError(fmt::format(
        "cannot join the samples of a batch: expected {} {} as of sample 0, got {} of sample {}; "
        "give the data set equal ones, or the loader a collate function",
        expected, parts, size, sample));
}

}  // namespace halftone
