// SPDX-License-Identifier: Apache-2.0
// bf16 and fp16 as formats of matmuls, for formats whose numbers are among theirs.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/gemm/matmul_format.h"

namespace halftone {

/// A matrix rounded to 16 bits, and the same in fp32 where a matmul computes with that.
class HalfMatrix : public Operand {
 public:
  HalfMatrix(torch::Tensor rounded, bool keeps_wide)
      : narrow(std::move(rounded)), keeps_wide_(keeps_wide) {}

  std::vector<torch::Tensor> kept() const override { return {narrow}; }
  OperandPtr for_many() override { return std::make_shared<HalfMatrix>(narrow, true); }
  /// The matrix as a matmul on `path` takes it.
  torch::Tensor in(GemmBackend path);
  /// Its largest magnitude; waits for the device.
  double largest();

  const torch::Tensor narrow;

 private:
  bool keeps_wide_;
  torch::Tensor wide_;
  std::optional<double> largest_;
};

class HalfMatmulFormat : public MatmulFormat {
 public:
  explicit HalfMatmulFormat(torch::ScalarType dtype) : dtype_(dtype) {}

  OperandPtr input(const torch::Tensor& x) const override;
  OperandPtr weight(at::TensorList weights, const std::vector<torch::Tensor>& kept) const override;
  OperandPtr gradient(const torch::Tensor& g, const GradientStreams& streams) const override;
  torch::Tensor forward(Operand& x, Operand& weight) const override;
  torch::Tensor input_gradient(Operand& g, Operand& weight, torch::ScalarType out) const override;
  torch::Tensor weight_gradient(Operand& g, Operand& x, torch::ScalarType out) const override;
  void add_weight_gradient(Operand& g, Operand& x, const torch::Tensor& sum,
                           double factor) const override;
  std::optional<double> gradient_growth(Operand& x, Operand& weight) const override;
  int kept_kernels(std::int64_t rows, std::int64_t in, std::int64_t out) const override;

 private:
  static HalfMatrix& half(Operand& operand) { return static_cast<HalfMatrix&>(operand); }
  GemmBackends paths(Operand& operand) const;
  GemmBackends cpu_paths() const;

  torch::ScalarType dtype_;
};

}  // namespace halftone
