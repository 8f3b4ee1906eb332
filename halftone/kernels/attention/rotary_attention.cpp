// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/attention/rotary_attention.h"

#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/view_as_real.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/kernels/attention/attention.h"
#include "halftone/kernels/attention/rope.h"
#include "halftone/kernels/attention/rotary_attention_bf16.h"
#include "halftone/kernels/attention/rotary_attention_impl.h"
#include "halftone/kernels/common/fused_kernels.h"
#include "halftone/kernels/common/kernel_type_impl.h"
#include "halftone/kernels/common/operator_impl.h"
#include "halftone/kernels/common/reference_grads_impl.h"
#include "halftone/kernels/gemm/brgemm_bf16.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/gemm/sgemm.h"
#include "halftone/kernels/linear/linear.h"

namespace halftone {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Few enough queries that the scores of a group stay in the second cache, and enough for a matmul;
// shorter blocks also compute fewer scores that causality throws away.
std::int64_t block_rows(const AttentionShape& shape) {
  constexpr std::int64_t kFloats = 96 << 10;
  return std::clamp<std::int64_t>(kFloats / (shape.group() * shape.steps) / 8 * 8, 8, 32);
}

AttentionShape shape_of(const Tensor& qkv, const HeadCounts& counts) {
  return {.batch = qkv.size(0),
          .steps = qkv.size(1),
          .heads = counts.heads,
          .kv_heads = counts.kv_heads,
          .size = qkv.size(2) / (counts.heads + 2 * counts.kv_heads)};
}

/// A block of consecutive queries of all heads of a group; `keys` are those that the last one sees.
struct Block {
  std::int64_t first;
  std::int64_t rows;
  std::int64_t keys() const { return first + rows; }
};

// One batch entry's key head and the query heads that share it, in fp32.
class Group {
 public:
  Group(const AttentionShape& shape, const Tensor& qkv, const float* rotations, std::int64_t index)
      : shape_(shape),
        type_(kernel_type(qkv.scalar_type())),
        element_(static_cast<std::int64_t>(qkv.element_size())),
        rotations_(rotations),
        batch_(index / shape.kv_heads),
        kv_head_(index % shape.kv_heads),
        keys_(static_cast<std::size_t>(shape.steps * shape.size)),
        values_(keys_.size()) {
    const Block all{0, shape.steps};
    const auto* data = static_cast<const char*>(qkv.const_data_ptr());
    load_head(rows(all, shape.width(), true), data + key_offset(), keys_.data());
    load_head(rows(all, shape.width(), false), data + value_offset(), values_.data());
  }

  /// Query heads first, then rows: (group * rows, size).
  void load_queries(const Block& block, const Tensor& qkv, std::vector<float>& to) const {
    load_group(block, qkv, shape_.width(), true, to);
  }
  /// Of a (B, T, heads size) tensor.
  void load_outputs(const Block& block, const Tensor& out, std::vector<float>& to) const {
    load_group(block, out, shape_.heads * shape_.size, false, to);
  }
  void store_outputs(const Block& block, const std::vector<float>& from, const Tensor& out) const {
    store_group(block, from, shape_.heads * shape_.size, false, out);
  }
  void store_query_grads(const Block& block, const std::vector<float>& from,
                         const Tensor& d_qkv) const {
    store_group(block, from, shape_.width(), true, d_qkv);
  }
  void store_key_value_grads(const std::vector<float>& d_keys, const std::vector<float>& d_values,
                             const Tensor& d_qkv) const {
    const Block all{0, shape_.steps};
    auto* data = static_cast<char*>(d_qkv.data_ptr());
    store_head(rows(all, shape_.width(), true), d_keys.data(), data + key_offset());
    store_head(rows(all, shape_.width(), false), d_values.data(), data + value_offset());
  }

  /// queries keys^T: (group * rows, keys).
  void scores(const Block& block, const std::vector<float>& queries, float* to) const {
    sgemm({shape_.group() * block.rows, block.keys(), shape_.size}, {queries.data(), shape_.size},
          {keys_.data(), shape_.size, true}, 0.0F, to, block.keys());
  }
  ScoreBlock score_block(const Block& block) const {
    return {.heads = shape_.group(),
            .rows = block.rows,
            .first = block.first,
            .stride = block.keys(),
            .scale = shape_.scale()};
  }
  /// Of log_sums (B, heads, T).
  std::int64_t log_sum_offset(const Block& block) const {
    return (batch_ * shape_.heads + kv_head_ * shape_.group()) * shape_.steps + block.first;
  }
  const std::vector<float>& keys() const { return keys_; }
  const std::vector<float>& values() const { return values_; }

 private:
  HeadRows rows(const Block& block, std::int64_t stride, bool rotated) const {
    return {.positions = block.rows,
            .size = shape_.size,
            .stride = stride,
            .type = type_,
            .rotations = rotated ? rotations_ + block.first * shape_.size : nullptr};
  }
  std::int64_t key_offset() const {
    return (batch_ * shape_.steps * shape_.width() + (shape_.heads + kv_head_) * shape_.size) *
           element_;
  }
  std::int64_t value_offset() const {
    return key_offset() + shape_.kv_heads * shape_.size * element_;
  }
  std::int64_t group_offset(const Block& block, std::int64_t stride, std::int64_t head) const {
    return ((batch_ * shape_.steps + block.first) * stride +
            (kv_head_ * shape_.group() + head) * shape_.size) *
           element_;
  }
  void load_group(const Block& block, const Tensor& tensor, std::int64_t stride, bool rotated,
                  std::vector<float>& to) const {
    const auto* data = static_cast<const char*>(tensor.const_data_ptr());
    for (std::int64_t h = 0; h < shape_.group(); ++h)
      load_head(rows(block, stride, rotated), data + group_offset(block, stride, h),
                to.data() + h * block.rows * shape_.size);
  }
  void store_group(const Block& block, const std::vector<float>& from, std::int64_t stride,
                   bool rotated, const Tensor& tensor) const {
    auto* data = static_cast<char*>(tensor.data_ptr());
    for (std::int64_t h = 0; h < shape_.group(); ++h)
      store_head(rows(block, stride, rotated), from.data() + h * block.rows * shape_.size,
                 data + group_offset(block, stride, h));
  }

  AttentionShape shape_;
  KernelType type_;
  std::int64_t element_;  // bytes
  const float* rotations_;
  std::int64_t batch_;
  std::int64_t kv_head_;
  std::vector<float> keys_;  // (T, size), rotated
  std::vector<float> values_;
};

template <class Function>
void for_each_block(const AttentionShape& shape, const Function& function) {
  for (std::int64_t first = 0; first < shape.steps; first += block_rows(shape))
    function(Block{first, std::min(block_rows(shape), shape.steps - first)});
}

std::vector<float> block_buffer(const AttentionShape& shape, std::int64_t columns) {
  return std::vector<float>(static_cast<std::size_t>(shape.group() * block_rows(shape) * columns));
}

void attend(const Group& group, const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
            float* log_sums) {
  std::vector<float> queries = block_buffer(shape, shape.size), outputs = queries;
  std::vector<float> scores = block_buffer(shape, shape.steps);
  for_each_block(shape, [&](const Block& block) {
    group.load_queries(block, qkv, queries);
    group.scores(block, queries, scores.data());
    softmax_scores(group.score_block(block), scores.data(), log_sums + group.log_sum_offset(block),
                   shape.steps);
    sgemm({shape.group() * block.rows, shape.size, block.keys()}, {scores.data(), block.keys()},
          {group.values().data(), shape.size}, 0.0F, outputs.data(), shape.size);
    group.store_outputs(block, outputs, out);
  });
}

void attend_grad(const Group& group, const AttentionShape& shape, const Tensor& qkv,
                 const Tensor& d_out, const float* log_sums, const Tensor& d_qkv) {
  std::vector<float> queries = block_buffer(shape, shape.size), d_outputs = queries;
  std::vector<float> d_queries = queries;
  std::vector<float> weights = block_buffer(shape, shape.steps), d_scores = weights;
  std::vector<float> d_keys(group.keys().size(), 0.0F), d_values = d_keys;
  for_each_block(shape, [&](const Block& block) {
    const std::int64_t count = shape.group() * block.rows, keys = block.keys();
    const std::int64_t size = shape.size;
    group.load_queries(block, qkv, queries);
    group.load_outputs(block, d_out, d_outputs);
    group.scores(block, queries, weights.data());
    recompute_weights(group.score_block(block), log_sums + group.log_sum_offset(block), shape.steps,
                      weights.data());
    sgemm({keys, size, count}, {weights.data(), keys, true}, {d_outputs.data(), size}, 1.0F,
          d_values.data(), size);
    sgemm({count, keys, size}, {d_outputs.data(), size}, {group.values().data(), size, true}, 0.0F,
          d_scores.data(), keys);
    softmax_grad(group.score_block(block), weights.data(), d_scores.data());
    sgemm({count, size, keys}, {d_scores.data(), keys}, {group.keys().data(), size}, 0.0F,
          d_queries.data(), size);
    sgemm({keys, size, count}, {d_scores.data(), keys, true}, {queries.data(), size}, 1.0F,
          d_keys.data(), size);
    group.store_query_grads(block, d_queries, d_qkv);
  });
  group.store_key_value_grads(d_keys, d_values, d_qkv);
}

const float* rotation_data(const Tensor& real_rotations) {
  return real_rotations.const_data_ptr<float>();
}

/// Whether the matmuls take bf16 factors: where those of linear() do.
bool multiplies_bf16(const Tensor& qkv, GemmBackend GemmBackends::*direction) {
  return qkv.scalar_type() == torch::kBFloat16 && has_brgemm_bf16() &&
         cpu_gemm_config().bf16.*direction == GemmBackend::kNative;
}

const std::uint16_t* bits_of(const Tensor& bf16) {
  return static_cast<const std::uint16_t*>(bf16.const_data_ptr());
}

std::uint16_t* writable_bits_of(const Tensor& bf16) {
  return static_cast<std::uint16_t*>(bf16.data_ptr());
}

void check(const Tensor& qkv, const Tensor& rotations, const HeadCounts& counts) {
  HALFTONE_CHECK(counts.kv_heads > 0 && counts.heads > 0 && counts.heads % counts.kv_heads == 0,
                 "[rotary_attention] expected heads to be a multiple of kv_heads, got ",
                 counts.heads, " and ", counts.kv_heads);
  HALFTONE_CHECK(
      qkv.dim() == 3 && qkv.size(2) % (2 * (counts.heads + 2 * counts.kv_heads)) == 0,
      "[rotary_attention] expected qkv (B, T, (heads + 2 kv_heads) d) with an even d, got ",
      qkv.sizes());
  const AttentionShape shape = shape_of(qkv, counts);
  HALFTONE_CHECK(rotations.dim() == 2 && rotations.size(0) == shape.steps &&
                     rotations.size(1) == shape.size / 2,
                 "[rotary_attention] expected rotations (T, d / 2), got ", rotations.sizes());
}

using Attended = std::tuple<Tensor, Tensor>;  // the result, log_sums (B, heads, T)
using AttentionSignature = Attended(const Tensor& qkv, const Tensor& rotations, std::int64_t heads,
                                    std::int64_t kv_heads);

Attended attention_buffers(const Tensor& qkv, const Tensor& /*rotations*/, std::int64_t heads,
                           std::int64_t kv_heads) {
  const AttentionShape shape = shape_of(qkv, {heads, kv_heads});
  return {at::empty({shape.batch, shape.steps, heads * shape.size}, qkv.options()),
          at::empty({shape.batch, heads, shape.steps}, qkv.options().dtype(torch::kFloat))};
}

Attended attend_all(const Tensor& qkv, const Tensor& rotations, std::int64_t heads,
                    std::int64_t kv_heads) {
  const Tensor dense = qkv.contiguous();
  const Tensor table = at::view_as_real(rotations).contiguous();  // (T, d / 2, 2)
  const AttentionShape shape = shape_of(dense, {heads, kv_heads});
  const Attended made = attention_buffers(dense, rotations, heads, kv_heads);
  const Tensor& out = std::get<0>(made);
  auto* sums = std::get<1>(made).data_ptr<float>();
  const bool bf16 = multiplies_bf16(dense, &GemmBackends::forward);
  at::parallel_for(0, shape.batch * kv_heads, 1, [&](std::int64_t index, std::int64_t end) {
    if (bf16)
      return attend16({shape, bits_of(dense), rotation_data(table)}, index, end,
                      writable_bits_of(out), sums);
    for (; index < end; ++index)
      attend(Group(shape, dense, rotation_data(table), index), shape, dense, out, sums);
  });
  return made;
}

using AttentionGradientSignature = Tensor(const Tensor& d_out, const Tensor& qkv,
                                          const Tensor& rotations, const Tensor& log_sums,
                                          std::int64_t heads, std::int64_t kv_heads);

Tensor attention_gradient_buffer(const Tensor& /*d_out*/, const Tensor& qkv,
                                 const Tensor& /*rotations*/, const Tensor& /*log_sums*/,
                                 std::int64_t /*heads*/, std::int64_t /*kv_heads*/) {
  return at::empty(qkv.sizes(), qkv.options());
}

Tensor attend_grad_all(const Tensor& d_out, const Tensor& qkv, const Tensor& rotations,
                       const Tensor& log_sums, std::int64_t heads, std::int64_t kv_heads) {
  check(qkv, rotations, {heads, kv_heads});
  const AttentionShape expected = shape_of(qkv, {heads, kv_heads});
  HALFTONE_CHECK(d_out.dim() == 3 && d_out.size(0) == expected.batch &&
                     d_out.size(1) == expected.steps && d_out.size(2) == heads * expected.size &&
                     log_sums.is_contiguous() &&
                     log_sums.numel() == expected.batch * heads * expected.steps,
                 "[rotary_attention] expected the gradient (B, T, heads d) and log_sums (B, heads, "
                 "T), got ",
                 d_out.sizes(), " and ", log_sums.sizes());
  const Tensor dense = qkv.contiguous();
  const Tensor table = at::view_as_real(rotations).contiguous();
  const Tensor d_rows = d_out.to(dense.scalar_type()).contiguous();
  const Tensor d_qkv = at::empty_like(dense);
  const AttentionShape shape = shape_of(dense, {heads, kv_heads});
  const auto* sums = log_sums.const_data_ptr<float>();
  const bool bf16 = multiplies_bf16(dense, &GemmBackends::input_gradient);
  at::parallel_for(0, shape.batch * shape.kv_heads, 1, [&](std::int64_t index, std::int64_t end) {
    if (bf16)
      return attend_grad16({shape, bits_of(dense), rotation_data(table)}, index, end,
                           bits_of(d_rows), sums, writable_bits_of(d_qkv));
    for (; index < end; ++index)
      attend_grad(Group(shape, dense, rotation_data(table), index), shape, dense, d_rows, sums,
                  d_qkv);
  });
  return d_qkv;
}

const Operator<AttentionGradientSignature> rotary_attention_gradient(
    "rotary_attention_gradient(Tensor d_out, Tensor qkv, Tensor rotations, Tensor log_sums, "
    "int heads, int kv_heads) -> Tensor",
    {.cpu = attend_grad_all, .meta = attention_gradient_buffer});

extern const Operator<AttentionSignature> rotary_attention_operator;

struct RotaryAttention : torch::autograd::Function<RotaryAttention> {
  static variable_list forward(AutogradContext* ctx, const Tensor& qkv, const Tensor& rotations,
                               std::int64_t heads, std::int64_t kv_heads) {
    const auto [out, log_sums] =
        rotary_attention_operator.below_autograd(qkv, qkv, rotations, heads, kv_heads);
    ctx->mark_non_differentiable({log_sums});
    ctx->save_for_backward({qkv, rotations, log_sums});
    ctx->saved_data["heads"] = heads;
    ctx->saved_data["kv_heads"] = kv_heads;
    return {out, log_sums};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& output_grads) {
    const variable_list saved = ctx->get_saved_variables();
    const HeadCounts counts{ctx->saved_data["heads"].toInt(), ctx->saved_data["kv_heads"].toInt()};
    if (!torch::GradMode::is_enabled())
      return {rotary_attention_gradient(output_grads[0], saved[0], saved[1], saved[2], counts.heads,
                                        counts.kv_heads),
              {},
              {},
              {}};
    const auto compose = [&](const variable_list& in) {
      return variable_list{rotary_attention_reference(in[0], saved[1], counts)};
    };
    return {reference_grads(compose, {saved[0]}, {output_grads[0]})[0], {}, {}, {}};
  }
};

Attended recorded_attention(const Tensor& qkv, const Tensor& rotations, std::int64_t heads,
                            std::int64_t kv_heads) {
  const variable_list made = RotaryAttention::apply(qkv, rotations, heads, kv_heads);
  return {made[0], made[1]};
}

Attended attention_by_definition(const Tensor& qkv, const Tensor& rotations, std::int64_t heads,
                                 std::int64_t kv_heads) {
  return {rotary_attention_reference(qkv, rotations, {heads, kv_heads}), Tensor()};
}

/// By `kernel`, where it takes the operands.
template <AttentionSignature* kernel>
Attended attention_by(const Tensor& qkv, const Tensor& rotations, std::int64_t heads,
                      std::int64_t kv_heads) {
  check(qkv, rotations, {heads, kv_heads});
  const torch::ScalarType dtype = compute_dtype(qkv);
  if (!is_fused(FusedKernel::kRotaryAttention) || !is_simd_operand(qkv) ||
      !has_kernel_type(dtype) || qkv.numel() == 0 || !has_sgemm())
    return attention_by_definition(qkv, rotations, heads, kv_heads);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  if (qkv.scalar_type() == dtype) return kernel(qkv, rotations, heads, kv_heads);
  // An operation of its own, so that autograd's two steps are two to observers as well.
  return rotary_attention_operator(qkv.to(dtype), rotations, heads, kv_heads);
}

const Operator<AttentionSignature> rotary_attention_operator(
    "rotary_attention(Tensor qkv, Tensor rotations, int heads, int kv_heads) -> (Tensor, Tensor)",
    {.reference = attention_by_definition,
     .autograd = attention_by<recorded_attention>,
     .cpu = attention_by<attend_all>,
     .meta = attention_by<attention_buffers>});

}  // namespace

Tensor rotary_attention(const Tensor& qkv, const Tensor& rotations, const HeadCounts& counts) {
  return std::get<0>(rotary_attention_operator(qkv, rotations, counts.heads, counts.kv_heads));
}

Tensor rotary_attention_reference(const Tensor& qkv, const Tensor& rotations,
                                  const HeadCounts& counts, double dropout) {
  check(qkv, rotations, counts);
  const std::int64_t size = shape_of(qkv, counts).size;
  const auto heads = [&](std::int64_t first, std::int64_t count) {
    return qkv.narrow(-1, first * size, count * size).unflatten(-1, {count, size});
  };
  const Tensor query = apply_rope(heads(0, counts.heads), rotations);
  const Tensor key = apply_rope(heads(counts.heads, counts.kv_heads), rotations);
  const Tensor value = heads(counts.heads + counts.kv_heads, counts.kv_heads);
  return causal_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2),
                          dropout)
      .transpose(1, 2)
      .flatten(2);
}

}  // namespace halftone
