// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/attention/rotary_attention_bf16.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "halftone/kernels/attention/rotary_attention_bf16_impl.h"
#include "halftone/kernels/common/transpose_impl.h"
#include "halftone/kernels/gemm/brgemm_bf16.h"

namespace halftone {
namespace {

/// Queries of a block, of each head, and keys of a panel: a block sees whole panels, so that few
/// shapes of matmuls occur.
constexpr std::int64_t kPanel = 32;

std::int64_t whole_panels(std::int64_t keys) { return (keys + kPanel - 1) / kPanel * kPanel; }

template <class T>
class Buffer {
 public:
  explicit Buffer(std::int64_t count)
      : data_(std::make_unique_for_overwrite<T[]>(static_cast<std::size_t>(count))) {}
  T* data() const { return data_.get(); }

 private:
  std::unique_ptr<T[]> data_;
};

using Halves = Buffer<std::uint16_t>;
using Words = Buffer<std::uint32_t>;  // two halves each
using Floats = Buffer<float>;

const std::uint16_t* halves(const Words& words) {
  return reinterpret_cast<const std::uint16_t*>(words.data());
}

template <class T>
const std::uint32_t* as_words(const T* data) {
  return reinterpret_cast<const std::uint32_t*>(data);
}

/// Consecutive queries of all heads of a group: `queries` of them in `rows` rows for each head.
struct Block {
  std::int64_t first;
  std::int64_t queries;
  std::int64_t rows;
  std::int64_t keys() const { return whole_panels(first + queries); }
};

template <class Function>
void for_each_block(const AttentionShape& shape, const Function& function) {
  for (std::int64_t first = 0; first < shape.steps; first += kPanel)
    function(Block{first, std::min(kPanel, shape.steps - first), kPanel});
}

/// Heads side by side in a (B, T, width) tensor, of one batch entry.
template <class T>
struct Heads {
  T* data;
  std::int64_t stride;  // from one position to the next
  std::int64_t count;
  const float* rotations;  // null for values and outputs
};

/// One batch entry's key head and the query heads that share it.
class GroupBf16 {
 public:
  GroupBf16(const AttentionShape& shape, const float* rotations, std::int64_t index)
      : shape_(shape),
        rotations_(rotations),
        batch_(index / shape.kv_heads),
        kv_head_(index % shape.kv_heads) {}

  template <class T>
  Heads<T> queries(T* qkv) const {
    return part(qkv, shape_.width(), kv_head_ * shape_.group(), shape_.group(), rotations_);
  }
  template <class T>
  Heads<T> keys(T* qkv) const {
    return part(qkv, shape_.width(), shape_.heads + kv_head_, 1, rotations_);
  }
  template <class T>
  Heads<T> values(T* qkv) const {
    return part(qkv, shape_.width(), shape_.heads + shape_.kv_heads + kv_head_, 1, nullptr);
  }
  template <class T>
  Heads<T> outputs(T* out) const {
    return part(out, shape_.heads * shape_.size, kv_head_ * shape_.group(), shape_.group(),
                nullptr);
  }

  /// (heads, rows, size), rotated; rows without a query are 0.
  void load(const Heads<const std::uint16_t>& heads, const Block& block, std::uint16_t* to) const {
    for (std::int64_t h = 0; h < heads.count; ++h, to += block.rows * shape_.size) {
      load_head16(rows(heads, block), heads.data + offset(heads.stride, block, h), to);
      std::fill(to + block.queries * shape_.size, to + block.rows * shape_.size, std::uint16_t{0});
    }
  }
  /// Rotates back and rounds.
  void store(const Heads<std::uint16_t>& heads, const Block& block, const float* from) const {
    for (std::int64_t h = 0; h < heads.count; ++h)
      store_head(rows(heads, block), from + h * block.rows * shape_.size,
                 heads.data + offset(heads.stride, block, h));
  }
  /// Of (B, heads, T).
  std::int64_t log_sum_offset(const Block& block) const {
    return (batch_ * shape_.heads + kv_head_ * shape_.group()) * shape_.steps + block.first;
  }

 private:
  template <class T>
  Heads<T> part(T* tensor, std::int64_t stride, std::int64_t head, std::int64_t count,
                const float* rotations) const {
    return {tensor + batch_ * shape_.steps * stride + head * shape_.size, stride, count, rotations};
  }
  std::int64_t offset(std::int64_t stride, const Block& block, std::int64_t head) const {
    return block.first * stride + head * shape_.size;
  }
  template <class T>
  HeadRows rows(const Heads<T>& heads, const Block& block) const {
    return {.positions = block.queries,
            .size = shape_.size,
            .stride = heads.stride,
            .type = KernelType::kBFloat16,
            .rotations =
                heads.rotations == nullptr ? nullptr : heads.rotations + block.first * shape_.size};
  }

  AttentionShape shape_;
  const float* rotations_;
  std::int64_t batch_;
  std::int64_t kv_head_;
};

/// All keys or values, one after the other, and zeros up to a whole panel.
Block all_keys(const AttentionShape& shape) { return {0, shape.steps, whole_panels(shape.steps)}; }

/// (keys, size) -> panels of (size / 2, kPanel) words: right factors whose columns are keys.
Words columns_of(const Halves& keys, std::int64_t count, std::int64_t size) {
  Words panels(count * size / 2);
  const std::uint32_t* words = as_words(keys.data());
  for (std::int64_t k = 0; k < count; k += kPanel)
    transpose_words({words + k * size / 2, size / 2, kPanel, size / 2},
                    panels.data() + k * size / 2, kPanel);
  return panels;
}

/// (keys, size) -> (keys / 2, size) words: a right factor whose rows are keys.
Words rows_of(const Halves& keys, std::int64_t count, std::int64_t size) {
  Words pairs(count * size / 2);
  join_rows(keys.data(), count / 2, size, pairs.data());
  return pairs;
}

/// to (rows, columns) = a (rows, size) times the first `columns` columns of the panels.
void multiply_panels(std::int64_t rows, std::int64_t size, const Halves& a, const Words& panels,
                     std::int64_t columns, float* to) {
  for (std::int64_t c = 0; c < columns; c += kPanel)
    brgemm_bf16({rows, kPanel, size}, {a.data(), size}, {halves(panels) + c * size, kPanel}, false,
                to + c, columns);
}

/// (rows, size) -> (size, rows).
void transpose_halves(const Halves& from, std::int64_t rows, std::int64_t size, const Words& spare,
                      const Halves& to) {
  transpose_words({as_words(from.data()), size / 2, rows, size / 2}, spare.data(), rows);
  split_rows(spare.data(), size / 2, rows, to.data());
}

ScoreBlockBf16 score_block(const AttentionShape& shape, const Block& block) {
  return {.heads = shape.group(),
          .rows = block.rows,
          .queries = block.queries,
          .first = block.first,
          .keys = block.keys(),
          .scale = shape.scale()};
}

void attend_group(const Attention16& input, const GroupBf16& group, std::uint16_t* out,
                  float* log_sums) {
  const AttentionShape& shape = input.shape;
  const Block all = all_keys(shape);
  const std::int64_t size = shape.size, count = shape.group() * kPanel;
  Halves loaded(all.rows * size);
  group.load(group.keys(input.qkv), all, loaded.data());
  const Words key_columns = columns_of(loaded, all.rows, size);
  group.load(group.values(input.qkv), all, loaded.data());
  const Words value_rows = rows_of(loaded, all.rows, size);
  const Halves queries(count * size), weights(count * all.rows);
  const Floats scores(count * all.rows), outputs(count * size), inverse_sums(count);
  for_each_block(shape, [&](const Block& block) {
    const std::int64_t keys = block.keys();
    group.load(group.queries(input.qkv), block, queries.data());
    multiply_panels(count, size, queries, key_columns, keys, scores.data());
    softmax_scores16(score_block(shape, block), scores.data(), weights.data(), inverse_sums.data(),
                     log_sums + group.log_sum_offset(block), shape.steps);
    brgemm_bf16({count, size, keys}, {weights.data(), keys}, {halves(value_rows), size}, false,
                outputs.data(), size);
    scale_rows(outputs.data(), count, size, inverse_sums.data());
    group.store(group.outputs(out), block, outputs.data());
  });
}

/// The gradient of keys or values, as panels of (size, kPanel): summed transposed, so that neither
/// the weights nor the gradient of the scores need be.
class KeyGrads {
 public:
  KeyGrads(std::int64_t keys, std::int64_t size)
      : size_(size), panels_(static_cast<std::size_t>(keys * size), 0.0F) {}

  /// += pairs^T rows, for pairs of `count` rows and `keys` columns, rows given as (size, count).
  void add(const Halves& transposed_rows, const Words& pairs, std::int64_t count,
           std::int64_t keys) {
    for (std::int64_t k = 0; k < keys; k += kPanel)
      brgemm_bf16({size_, kPanel, count}, {transposed_rows.data(), count},
                  {halves(pairs) + 2 * k, keys}, true, panels_.data() + k * size_, kPanel);
  }
  /// Row by row.
  Floats rows() const {
    const auto keys = static_cast<std::int64_t>(panels_.size()) / size_;
    Floats result(keys * size_);
    for (std::int64_t k = 0; k < keys; k += kPanel)
      transpose_words({as_words(panels_.data() + k * size_), kPanel, size_, kPanel},
                      reinterpret_cast<std::uint32_t*>(result.data() + k * size_), size_);
    return result;
  }

 private:
  std::int64_t size_;
  std::vector<float> panels_;
};

void attend_grad_group(const Attention16& input, const GroupBf16& group, const std::uint16_t* d_out,
                       const float* log_sums, std::uint16_t* d_qkv) {
  const AttentionShape& shape = input.shape;
  const Block all = all_keys(shape);
  const std::int64_t size = shape.size, count = shape.group() * kPanel;
  Halves loaded(all.rows * size);
  group.load(group.values(input.qkv), all, loaded.data());
  const Words value_columns = columns_of(loaded, all.rows, size);
  group.load(group.keys(input.qkv), all, loaded.data());
  const Words key_columns = columns_of(loaded, all.rows, size);
  const Words key_rows = rows_of(loaded, all.rows, size);
  KeyGrads d_keys(all.rows, size), d_values(all.rows, size);
  const Halves queries(count * size), d_outputs(count * size), transposed(count * size);
  const Halves d_scores(count * all.rows);
  const Words spare(count * size / 2);
  const Words weight_pairs(count * all.rows / 2), d_score_pairs(count * all.rows / 2);
  const Floats scores(count * all.rows), d_weights(count * all.rows), d_queries(count * size);
  for_each_block(shape, [&](const Block& block) {
    const std::int64_t keys = block.keys();
    group.load(group.queries(input.qkv), block, queries.data());
    group.load(group.outputs(d_out), block, d_outputs.data());
    multiply_panels(count, size, queries, key_columns, keys, scores.data());
    multiply_panels(count, size, d_outputs, value_columns, keys, d_weights.data());
    softmax_grad16(score_block(shape, block), log_sums + group.log_sum_offset(block), shape.steps,
                   scores.data(), d_weights.data(),
                   {weight_pairs.data(), d_scores.data(), d_score_pairs.data()});
    transpose_halves(d_outputs, count, size, spare, transposed);
    d_values.add(transposed, weight_pairs, count, keys);
    transpose_halves(queries, count, size, spare, transposed);
    d_keys.add(transposed, d_score_pairs, count, keys);
    brgemm_bf16({count, size, keys}, {d_scores.data(), keys}, {halves(key_rows), size}, false,
                d_queries.data(), size);
    group.store(group.queries(d_qkv), block, d_queries.data());
  });
  group.store(group.keys(d_qkv), all, d_keys.rows().data());
  group.store(group.values(d_qkv), all, d_values.rows().data());
}

}  // namespace

void attend16(const Attention16& input, std::int64_t begin, std::int64_t end, std::uint16_t* out,
              float* log_sums) {
  const BrgemmBf16Region region;
  for (std::int64_t index = begin; index < end; ++index)
    attend_group(input, GroupBf16(input.shape, input.rotations, index), out, log_sums);
}

void attend_grad16(const Attention16& input, std::int64_t begin, std::int64_t end,
                   const std::uint16_t* d_out, const float* log_sums, std::uint16_t* d_qkv) {
  const BrgemmBf16Region region;
  for (std::int64_t index = begin; index < end; ++index)
    attend_grad_group(input, GroupBf16(input.shape, input.rotations, index), d_out, log_sums,
                      d_qkv);
}

}  // namespace halftone
