// SPDX-License-Identifier: Apache-2.0
// The matmuls of a linear layer y = x W^T in one number format: what rounds the operands and what
// multiplies them. Linear layers, output heads and measurements know formats by this interface
// alone.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace halftone {

/// A matrix of a linear layer (x, W, or the gradient g of y) in the forms that the format's matmuls
/// take. A form is made when a matmul first needs it, and kept for the next. Not thread-safe.
class Operand : public std::enable_shared_from_this<Operand> {
 public:
  virtual ~Operand() = default;

  /// What to keep between the forward and the backward pass in the place of the matrix, as
  /// MatmulFormat takes it again. Empty: the matrix itself.
  virtual std::vector<torch::Tensor> kept() const { return {}; }
  /// The operand for many matmuls in a row, for which large forms are worth their memory.
  virtual std::shared_ptr<Operand> for_many() { return shared_from_this(); }
};
using OperandPtr = std::shared_ptr<Operand>;

/// Of the stochastic rounding of one gradient, for each of the matmuls that take it.
struct GradientStreams {
  std::uint64_t input_gradient = 0;
  std::uint64_t weight_gradient = 0;
};

/// One object per format, without state. Nothing is recorded for autograd. Operands are of this
/// format; all matrices are on one device.
class MatmulFormat {
 public:
  virtual ~MatmulFormat() = default;

  /// Whether operands are rounded: then a layer can be differentiated once. If not, at::linear()
  /// defines it.
  virtual bool rounds() const { return true; }

  /// What a user should know of the format's speed on that device, as a clause; or nothing.
  virtual std::string remark(torch::Device /*device*/) const { return ""; }

  /// x (rows, in) or what Operand::kept() held of it.
  virtual OperandPtr input(const torch::Tensor& x) const = 0;
  /// Weights (out_i, in), as one matrix below each other. `kept`: what Operand::kept() holds of
  /// them, if that is at hand.
  virtual OperandPtr weight(at::TensorList weights,
                            const std::vector<torch::Tensor>& kept = {}) const = 0;
  /// g (rows, out).
  virtual OperandPtr gradient(const torch::Tensor& g, const GradientStreams& streams) const = 0;

  /// x W^T (rows, out) in the format's tensor_dtype(), dense.
  virtual torch::Tensor forward(Operand& x, Operand& weight) const = 0;
  /// The same converted to `out`, the dtype of the tensors between layers of another format.
  virtual torch::Tensor forward_to(Operand& x, Operand& weight, torch::ScalarType out) const {
    return forward(x, weight).to(out);
  }
  /// g W (rows, in). Where that is rounded to the format on the way, `out` may be wider.
  virtual torch::Tensor input_gradient(Operand& g, Operand& weight,
                                       torch::ScalarType out) const = 0;
  /// g^T x (out, in) in the dtype `out`.
  virtual torch::Tensor weight_gradient(Operand& g, Operand& x, torch::ScalarType out) const = 0;
  /// sum += factor g^T x; `sum` (out, in) dense, fp32 or the dtype of the tensors between layers.
  virtual void add_weight_gradient(Operand& g, Operand& x, const torch::Tensor& sum,
                                   double factor) const = 0;

  /// How much larger than its largest gradient g the values may be that a format of short range
  /// rounds in the backward pass of x and weight, where gradients of one row sum up to at most
  /// twice the largest; nothing where the range is that of fp32.
  virtual std::optional<double> gradient_growth(Operand& /*x*/, Operand& /*weight*/) const {
    return std::nullopt;
  }

  /// Bytes that stay for the next right operand (columns, depth) of the same shape.
  virtual double packed_bytes(double /*depth*/, double /*columns*/) const { return 0; }
  /// How many of the three matmuls of y (rows, out) = x (rows, in) W^T oneDNN computes on the CPU:
  /// it makes machine code for each of their shapes, and keeps it.
  virtual int kept_kernels(std::int64_t /*rows*/, std::int64_t /*in*/, std::int64_t /*out*/) const {
    return 0;
  }
};

}  // namespace halftone
