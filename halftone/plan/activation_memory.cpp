// SPDX-License-Identifier: Apache-2.0
#include "halftone/plan/activation_memory.h"

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include "halftone/kernels/gemm/matmul_format.h"
#include "halftone/kernels/linear/linear_cross_entropy.h"

namespace halftone {
namespace {

constexpr double kFp32 = 4;
constexpr double kIndex = 8;  // int64

ActivationMemory operator+(const ActivationMemory& a, const ActivationMemory& b) {
  return {a.activations + b.activations, a.workspace + b.workspace};
}

ActivationMemory operator*(double factor, const ActivationMemory& bytes) {
  return {factor * bytes.activations, factor * bytes.workspace};
}

ActivationMemory larger(const ActivationMemory& a, const ActivationMemory& b) {
  return a.total() < b.total() ? b : a;
}

/// What one part of the model holds. `forward` and `backward` are beside what is kept, at the most;
/// `backward` begins with the gradient of the part's result, which is counted by who made it.
struct LayerMemory {
  ActivationMemory kept;
  ActivationMemory forward;
  ActivationMemory backward;
};

class Step {
 public:
  Step(const ModelConfig& model, const StepShape& shape, const StepDtypes& formats)
      : model_(model),
        formats_(formats),
        batch_(static_cast<double>(shape.batch_size) *
               (formats.released_gradients ? static_cast<double>(shape.micro_batches) : 1)),
        steps_(static_cast<double>(shape.predictions)),
        rows_(batch_ * steps_),
        dim_(static_cast<double>(model.dim)),
        hidden_(static_cast<double>(hidden_dim_of(model))),
        query_(static_cast<double>(model.n_heads * head_dim_of(model))),
        key_(static_cast<double>(model.n_kv_heads * head_dim_of(model))),
        vocab_(static_cast<double>(model.vocab_size)),
        stream_(static_cast<double>(c10::elementSize(formats.stream))),
        compute_(static_cast<double>(c10::elementSize(tensor_dtype(formats.compute)))),
        narrow_(tensor_dtype(formats.compute) != torch::kFloat),
        format_(matmul_format(formats.compute)),
        head_format_(matmul_format(lm_head_type(formats.compute))),
        layer_{.input = tensor_dtype(formats.compute),
               .weight = formats.weights,
               .cached = shape.micro_batches > 1 && !formats.released_gradients} {}

  ActivationMemory peak() const {
    const double layers = static_cast<double>(model_.n_layers);
    const LayerMemory layer = decoder_layer();
    const ActivationMemory block_input{.activations = rows_ * dim_ * stream_};
    const ActivationMemory head = released_head();
    ActivationMemory all = conversions() + embedding_dropout();
    ActivationMemory forward = layer.forward, backward = layer.backward + head;
    if (formats_.recompute_blocks) {
      all = all + layers * block_input;
      // The gradient of the layer's result waits while it runs again, and its results while their
      // gradients are computed.
      const ActivationMemory weights = layer_conversions();
      forward = layer.kept + layer.forward + block_input + head + weights;
      backward = layer.kept + backward + block_input + weights;
    } else {
      all = all + layers * layer.kept;
    }
    return all + larger(larger(forward, backward), loss());
  }

 private:
  /// Of the dtype that a norm hands to a dense layer.
  double normed_width() const { return narrow_ ? compute_ : stream_; }
  double branch_width() const { return model_.use_moe ? stream_ : compute_; }
  /// A gradient that is the stream's, in another dtype.
  double apart(double width) const { return width == stream_ ? 0 : width; }

  // ---- matmuls y (rows, out) = x (rows, in) W^T: what they need beside x, y and their gradients.

  ActivationMemory matmul_forward(double rows, double in, double out) const {
    return {.workspace = format_.forward_bytes({rows, in, out}, layer_)};
  }

  ActivationMemory matmul_backward(double rows, double in, double out) const {
    return {.workspace = format_.backward_bytes({rows, in, out}, layer_)};
  }

  // ---- layers

  /// Of `rows` tokens, with weights of its own.
  LayerMemory feed_forward(double rows) const {
    const double gate_up = rows * 2 * hidden_ * compute_;
    const double product = rows * hidden_ * compute_;  // silu(gate) up
    const double out = rows * dim_ * compute_;
    LayerMemory part;
    part.kept = {.activations = gate_up};
    part.forward = larger(
        matmul_forward(rows, dim_, 2 * hidden_),
        ActivationMemory{.activations = product + out} + matmul_forward(rows, hidden_, dim_));
    // The second matmul: its input's gradient, then that input again and its own input's gradient.
    const ActivationMemory second = ActivationMemory{.activations = 2 * product + gate_up} +
                                    matmul_backward(rows, hidden_, dim_);
    // The first: gate_up is gone, its gradient is there; the norm's result is computed again.
    const ActivationMemory first =
        ActivationMemory{.activations = rows * dim_ * (compute_ + normed_width())} +
        matmul_backward(rows, dim_, 2 * hidden_);
    part.backward = larger(second, first);
    if (dropout()) {
      part.kept.activations += out;  // the factors
      part.forward.activations += out;
      part.backward.activations += out;
    }
    return part;
  }

  LayerMemory attention() const {
    const double qkv = rows_ * (query_ + 2 * key_) * compute_;
    const double out = rows_ * query_ * compute_;
    const double result = rows_ * dim_ * compute_;
    LayerMemory part;
    part.kept = {.activations = qkv + out + rows_ * static_cast<double>(model_.n_heads) * kFp32};
    part.forward =
        ActivationMemory{.activations = result} +
        larger(matmul_forward(rows_, dim_, query_ + 2 * key_), matmul_forward(rows_, query_, dim_));
    part.backward =
        larger(ActivationMemory{.activations = out} + matmul_backward(rows_, query_, dim_),
               ActivationMemory{.activations = qkv + result} +
                   matmul_backward(rows_, dim_, query_ + 2 * key_));
    if (dropout()) add_dropout(part, qkv, out, result);
    return part;
  }

  /// LibTorch's attention, in fp32, and its softmax, factors and product of both.
  void add_dropout(LayerMemory& part, double qkv, double out, double result) const {
    const double scores = batch_ * static_cast<double>(model_.n_heads) * steps_ * steps_ * kFp32;
    const double heads = rows_ * query_ * kFp32;
    part.kept.activations += 3 * scores + 3 * heads + result - qkv;
    part.forward.activations += scores + heads + out + result;
    part.backward.activations += 2 * scores + 2 * heads;
  }

  /// x + branch and its norm, for a dense layer's input.
  ActivationMemory norm_kept() const { return {.activations = rows_ * (dim_ * stream_ + kFp32)}; }

  LayerMemory decoder_layer() const {
    const LayerMemory mixed = attention();
    const LayerMemory fed = model_.use_moe ? experts() : feed_forward(rows_);
    const double normed = rows_ * dim_ * normed_width();
    const double incoming = rows_ * dim_ * branch_width();
    LayerMemory layer;
    layer.kept = 2 * norm_kept() + mixed.kept + fed.kept;
    // At the end: what came in, what was normed (twice), and what attention gave are held still.
    const double locals = incoming + 2 * normed + rows_ * dim_ * compute_;
    layer.forward = larger(ActivationMemory{.activations = locals} + fed.forward,
                           ActivationMemory{.activations = incoming + normed} + mixed.forward);
    const ActivationMemory gradients{.activations =
                                         rows_ * dim_ * (stream_ + apart(branch_width()))};
    // Gradients are released a matrix at a time, or when the whole block has run again.
    const double fed_matrices = feed_forwards() * 3 * dim_ * hidden_;
    const bool together = formats_.recompute_blocks;
    const ActivationMemory feeding =
        fed.backward + released(together ? fed_matrices / 2 : dim_ * hidden_);
    ActivationMemory mixing = mixed.backward + released(together ? layer_weights() : dim_ * query_);
    mixing.activations -= fed.kept.activations;
    layer.backward = gradients + larger(feeding, mixing);
    return layer;
  }

  // ---- a mixture of experts

  LayerMemory experts() const {
    const double chosen = static_cast<double>(model_.num_experts_per_tok);
    const double experts = static_cast<double>(model_.n_routed_experts);
    const double routed = rows_ * chosen;  // rows of all experts together
    const double wide = routed * dim_ * kFp32, rounded = routed * dim_ * compute_;
    const double sum = rows_ * dim_ * kFp32;
    const LayerMemory one = feed_forward(routed / experts);  // as if the router were fair
    const LayerMemory shared = model_.n_shared_experts > 0 ? feed_forward(rows_) : LayerMemory();
    LayerMemory part;
    // The router's input in fp32; the experts' inputs and outputs; gate and up of all of them.
    part.kept = experts * one.kept + shared.kept;
    part.kept.activations += sum + rounded + wide + router(experts, chosen);
    // The experts' inputs, their outputs, those in the order of tokens, and weighted; the sum.
    const double grouped = narrow_ ? routed * dim_ * stream_ : 0;
    const double ungrouped = narrow_ ? rounded : 0;
    const ActivationMemory combining{.activations = grouped + rounded + ungrouped + wide + sum};
    const ActivationMemory sharing = ActivationMemory{.activations = sum} + shared.forward;
    part.forward = larger(combining, sharing);
    const double d_sum = stream_ == kFp32 ? 0 : sum;
    const ActivationMemory shared_first =
        ActivationMemory{.activations = d_sum + rows_ * dim_ * apart(compute_)} + shared.backward;
    ActivationMemory weighted{.activations = d_sum + rows_ * dim_ * stream_ + 2 * wide};
    ActivationMemory grouped_back =
        ActivationMemory{.activations = d_sum + rows_ * dim_ * stream_ + rounded +
                                        2 * routed * dim_ * stream_} +
        one.backward;
    grouped_back.activations -= wide;
    weighted.activations -= shared.kept.activations;
    grouped_back.activations -= shared.kept.activations;
    part.backward = larger(larger(shared_first, weighted), grouped_back);
    return part;
  }

  /// Scores, softmax, choices, their order.
  double router(double experts, double chosen) const {
    return rows_ * (3 * experts * kFp32 + 4 * chosen * kIndex);
  }

  // ---- the rest of the model

  bool dropout() const { return model_.dropout > 0; }

  ActivationMemory embedding_dropout() const {
    return {.activations = dropout() ? rows_ * dim_ * stream_ : 0};
  }

  /// The last norm, the gradients of the head's input and weight, and a chunk of logits.
  ActivationMemory loss() const {
    const double rows = static_cast<double>(loss_chunk_rows(
        static_cast<std::int64_t>(std::min(rows_, 0x1p40)), model_.vocab_size, model_.dim));
    LayerDtypes head = layer_;
    head.input = formats_.stream;
    double work = kFp32 * vocab_ * dim_ + compute_ * rows * vocab_ +
                  head_format_.lm_head_bytes({.rows = rows, .in = dim_, .out = vocab_}, head);
    // The gradient of the head's weight and a matmul with the incoming one.
    if (formats_.released_gradients)
      work = std::max(work, 2 * kFp32 * vocab_ * dim_ + released(vocab_ * dim_).workspace);
    return {.activations = rows_ * (dim_ * (2 * stream_ + kFp32) + 4 * kFp32), .workspace = work};
  }

  // ---- gradients that are there until they are applied

  /// It is the embedding's, too, and there until the end. The loss keeps what it has found where
  /// the gradients are measured first.
  ActivationMemory released_head() const {
    if (!formats_.released_gradients) return {};
    return released(vocab_ * dim_) + ActivationMemory{.activations = rows_ * dim_ * stream_,
                                                      .workspace = kFp32 * vocab_ * dim_};
  }

  ActivationMemory released(double numbers) const {
    if (!formats_.released_gradients) return {};
    const auto width = static_cast<double>(c10::elementSize(*formats_.released_gradients));
    return {.workspace = width * numbers};
  }

  // ---- weights in other formats

  double feed_forwards() const {
    return model_.use_moe ? static_cast<double>(model_.n_routed_experts + model_.n_shared_experts)
                          : 1;
  }

  double layer_weights() const {
    return dim_ * (2 * query_ + 2 * key_) + 3 * feed_forwards() * dim_ * hidden_;
  }

  /// Weights that are rounded for the whole pass: all of the layers' are kept for the backward
  /// pass, and everything for several micro-batches.
  ActivationMemory conversions() const {
    const bool for_the_pass = layer_.cached || !formats_.recompute_blocks;
    double bytes = 0;
    if (for_the_pass)
      bytes = format_.kept_bytes(layer_) * static_cast<double>(model_.n_layers) * layer_weights();
    if (layer_.cached) bytes += head_format_.kept_bytes(layer_) * vocab_ * dim_;
    return {.workspace = bytes};
  }

  /// With recomputation, a layer's rounded weights come and go with the layer: the head's peak is
  /// without them.
  ActivationMemory layer_conversions() const {
    return {.workspace = layer_.cached ? 0 : format_.kept_bytes(layer_) * layer_weights()};
  }

  const ModelConfig& model_;
  const StepDtypes& formats_;
  double batch_, steps_, rows_;
  double dim_, hidden_, query_, key_, vocab_;
  double stream_, compute_;  // bytes of an element
  bool narrow_;              // `compute` has 16 bits
  const MatmulFormat& format_;
  const MatmulFormat& head_format_;
  LayerDtypes layer_;  // its weights are in a cache where there are several micro-batches
};

}  // namespace

StepDtypes step_dtypes(const PrecisionPolicy& precision, const MemoryPolicy& memory) {
  std::optional<torch::ScalarType> released;
  if (memory.release_gradients)
    released =
        memory.bf16_weights && !memory.fp32_gradients ? torch::kBFloat16 : precision.parameter;
  return {.weights = memory.bf16_weights ? torch::kBFloat16 : precision.parameter,
          .stream = precision.autocast() ? torch::kFloat : precision.parameter,
          .compute = precision.compute,
          .recompute_blocks = memory.recompute_blocks,
          .released_gradients = released};
}

ActivationMemory peak_activation_memory(const ModelConfig& model, const StepShape& shape,
                                        const StepDtypes& formats) {
  return Step(model, shape, formats).peak();
}

double packed_operand_bytes(const ModelConfig& model, const StepShape& shape,
                            const StepDtypes& formats) {
  const MatmulFormat& format = matmul_format(formats.compute);
  const auto wide = [](std::int64_t size) { return static_cast<double>(size); };
  const double rows = wide(shape.batch_size) * wide(shape.predictions);
  const double dim = wide(model.dim), hidden = wide(hidden_dim_of(model));
  const double head_dim = wide(head_dim_of(model)), vocab = wide(model.vocab_size);
  const double query = wide(model.n_heads) * head_dim, key = wide(model.n_kv_heads) * head_dim;
  const std::array<std::pair<double, double>, 4> layers{
      {{dim, query + 2 * key}, {query, dim}, {dim, 2 * hidden}, {hidden, dim}}};
  // Of y = x W^T, of dX = g W and of dW = g^T x: the depth of the sums and the columns.
  std::set<std::pair<double, double>> shapes{{dim, vocab}, {vocab, dim}};
  for (const auto& [in, out] : layers) shapes.insert({{in, out}, {out, in}, {rows, in}});
  double bytes = 0;
  for (const auto& [depth, columns] : shapes) bytes += format.packed_bytes(depth, columns);
  return bytes;
}

}  // namespace halftone
