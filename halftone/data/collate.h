// SPDX-License-Identifier: Apache-2.0
// From the samples of a batch to the batch.
#pragma once

#include <torch/data/example.h>
#include <torch/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/data/batch_parts.h"

namespace halftone {

/// Tensors of one shape, dtype and device, as one with a new first dimension. Throws UserError that
/// names the first that differs: nothing is promoted or padded unasked.
torch::Tensor stack_samples(const std::vector<torch::Tensor>& samples);

/// Sequences of several lengths as one tensor; B = how many, T = the longest.
struct PaddedSequences {
  torch::Tensor padded;   // (B, T, ...) of the sequences' dtype
  torch::Tensor lengths;  // (B) int64
  torch::Tensor mask;     // (B, T) bool, true where `padded` has an element of a sequence

  auto tensors() { return std::tie(padded, lengths, mask); }
};

/// `sequences`: (T_i, ...), equal in all but the first dimension, T_i >= 0; what is behind a
/// sequence's end is `padding_value`. Throws UserError that names the first that differs in dtype,
/// device or the other dimensions; c10::Error for none at all, and for a padding value that the
/// dtype doesn't have. The tokens that count are mask.sum(), a TrainingModule's loss_weight().
PaddedSequences pad_sequences(std::span<const torch::Tensor> sequences, double padding_value = 0.0);

/// Numbers as a tensor (B): integers as int64, float as fp32, double as fp64, bool as bool.
template <class Number>
torch::Tensor number_tensor(const std::vector<Number>& numbers) {
  constexpr bool kBool = std::is_same_v<Number, bool>;
  constexpr bool kSingle = std::is_same_v<Number, float>;
  using Real = std::conditional_t<kSingle, float, double>;
  using Other = std::conditional_t<std::is_integral_v<Number>, std::int64_t, Real>;
  using Element = std::conditional_t<kBool, bool, Other>;
  torch::Tensor tensor =
      torch::empty({std::ssize(numbers)}, c10::CppTypeToScalarType<Element>::value);
  auto* out = tensor.template data_ptr<Element>();
  for (const Number number : numbers) {
    if constexpr (std::is_unsigned_v<Number> && sizeof(Number) == 8)
      HALFTONE_CHECK(number <= std::uint64_t{std::numeric_limits<std::int64_t>::max()},
                     "[collate] expected numbers that int64 has, got ", number);
    *out++ = static_cast<Element>(number);
  }
  return tensor;
}

template <class T>
struct IsVector : std::false_type {};
template <class Part>
struct IsVector<std::vector<Part>> : std::true_type {};

/// What `get` has of each sample.
template <class Sample, class Get>
auto column_of(const std::vector<Sample>& samples, const Get& get) {
  std::vector<std::remove_cvref_t<decltype(get(samples.front()))>> column;
  column.reserve(samples.size());
  for (const Sample& sample : samples) column.push_back(get(sample));
  return column;
}

/// The batch of at least one sample, part by part, as PyTorch's default_collate: tensors are
/// stacked, numbers become a tensor, strings stay a std::vector. Example, pair, tuple, array,
/// vector, map (as std::map) and a struct with tensors() (ListedBatch) are the same of their parts'
/// batches. Throws what stack_samples() throws, and UserError for vectors of several lengths and
/// maps of several keys.
template <class Sample>
auto default_collate(std::vector<Sample> samples);

/// Throws UserError unless `size` is `expected`, which the first sample has.
void check_equal_parts(const char* parts, std::size_t expected, std::size_t size,
                       std::size_t sample);

template <ListedBatch Sample>
Sample collate_listed(const std::vector<Sample>& samples) {
  Sample batch = samples.front();
  const auto join = [&]<std::size_t... i>(std::index_sequence<i...>) {
    const auto join_part = [&](auto& part, const auto& get) {
      part = default_collate(column_of(samples, get));
    };
    auto parts = listed_parts(batch);
    (join_part(std::get<i>(parts),
               [](Sample one) {
                 auto part = std::get<i>(listed_parts(one));
                 return part;
               }),
     ...);
  };
  join(std::make_index_sequence<std::tuple_size_v<decltype(listed_parts(batch))>>());
  return batch;
}

template <class Sample>
auto collate_example(const std::vector<Sample>& samples) {
  auto data = default_collate(column_of(samples, [](const Sample& one) { return one.data; }));
  using Data = decltype(data);
  if constexpr (requires(const Sample& one) { one.target; }) {
    auto target = default_collate(column_of(samples, [](const Sample& one) { return one.target; }));
    using Target = decltype(target);
    if constexpr (std::is_constructible_v<Sample, Data, Target>)
      return Sample(std::move(data), std::move(target));
    else
      return torch::data::Example<Data, Target>(std::move(data), std::move(target));
  } else {
    return torch::data::Example<Data, torch::data::example::NoTarget>(std::move(data));
  }
}

template <TupleBatch Sample>
auto collate_tuple(const std::vector<Sample>& samples) {
  const auto join = [&]<std::size_t... i>(std::index_sequence<i...>) {
    return std::tuple{
        default_collate(column_of(samples, [](const Sample& one) { return std::get<i>(one); }))...};
  };
  auto batch = join(std::make_index_sequence<std::tuple_size_v<Sample>>());
  if constexpr (requires(const Sample& one) { one.second; })
    return std::make_from_tuple<std::pair<std::tuple_element_t<0, decltype(batch)>,
                                          std::tuple_element_t<1, decltype(batch)>>>(
        std::move(batch));
  else if constexpr (requires(Sample one) { one.fill(one[0]); })
    return std::apply([](auto&&... parts) { return std::array{std::move(parts)...}; },
                      std::move(batch));
  else
    return batch;
}

template <MapBatch Sample>
auto collate_map(const std::vector<Sample>& samples) {
  using Part = decltype(default_collate(std::vector<typename Sample::mapped_type>()));
  std::map<typename Sample::key_type, Part> batch;
  for (std::size_t i = 0; i < samples.size(); ++i)
    check_equal_parts("keys", samples.front().size(), samples[i].size(), i);
  for (const auto& entry : samples.front()) {
    const auto& key = entry.first;
    batch.emplace(key, default_collate(column_of(samples, [&](const Sample& one) {
                    const auto found = one.find(key);
                    check_equal_parts("entries of a key", 1, found != one.end() ? 1 : 0,
                                      static_cast<std::size_t>(&one - samples.data()));
                    return found->second;
                  })));
  }
  return batch;
}

template <class Part>
auto collate_vectors(const std::vector<std::vector<Part>>& samples) {
  std::vector<decltype(default_collate(std::vector<Part>()))> batch;
  for (std::size_t i = 0; i < samples.size(); ++i)
    check_equal_parts("elements", samples.front().size(), samples[i].size(), i);
  for (std::size_t at = 0; at < samples.front().size(); ++at)
    batch.push_back(default_collate(
        column_of(samples, [at](const std::vector<Part>& one) { return one[at]; })));
  return batch;
}

template <class Sample>
auto default_collate(std::vector<Sample> samples) {
  if constexpr (std::is_same_v<Sample, torch::Tensor>)
    return stack_samples(samples);
  else if constexpr (std::is_arithmetic_v<Sample>)
    return number_tensor(samples);
  else if constexpr (std::is_same_v<Sample, std::string>)
    return samples;
  else if constexpr (ListedBatch<Sample>)
    return collate_listed(samples);
  else if constexpr (TupleBatch<Sample>)
    return collate_tuple(samples);
  else if constexpr (MapBatch<Sample>)
    return collate_map(samples);
  else if constexpr (IsVector<Sample>::value)
    return collate_vectors(samples);
  else if constexpr (
      requires { Sample(samples.front().data); } ||
      requires { Sample(samples.front().data, samples.front().target); })
    return collate_example(samples);
  else
    static_assert(sizeof(Sample) == 0,
                  "samples of this type can't be joined: give the DataLoader a function "
                  "`Batch collate(std::vector<Sample>)`, or the type a member `auto tensors()`");
}

/// What a DataLoader does with the samples of a batch unless told otherwise.
struct DefaultCollate {
  template <class Sample>
  auto operator()(std::vector<Sample> samples) const {
    return default_collate(std::move(samples));
  }
};

}  // namespace halftone
