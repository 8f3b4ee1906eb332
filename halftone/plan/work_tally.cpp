// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <memory>
#include <string_view>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/inspect/operation_work_impl.h"
#include "halftone/inspect/recorder_impl.h"
#include "halftone/kernels/common/merged_weights_impl.h"
#include "halftone/kernels/common/without_data.h"
#include "halftone/kernels/gemm/matmul_format.h"
#include "halftone/plan/work_tally_impl.h"

namespace halftone {
namespace {

using torch::Tensor;

thread_local WorkTally* current_tally = nullptr;

/// An operand of the library's format, and its size.
struct CountedOperand : Operand {
  CountedOperand(OperandPtr the_inner, std::int64_t the_rows, std::int64_t the_columns)
      : inner(std::move(the_inner)), rows(the_rows), columns(the_columns) {}
  std::vector<Tensor> kept() const override { return inner->kept(); }
  std::shared_ptr<Operand> for_many() override {
    return std::make_shared<CountedOperand>(inner->for_many(), rows, columns);
  }

  OperandPtr inner;
  std::int64_t rows;
  std::int64_t columns;
};

/// What it does while nothing counts is the library's format's, too.
class Uncounted {
 public:
  Uncounted() {
    if (WorkTally* const tally = WorkTally::current()) part_.emplace(*tally);
  }

 private:
  std::optional<WorkTally::Part> part_;
};

class CountingFormat : public MatmulFormat {
 public:
  explicit CountingFormat(ComputeType type) : type_(type), format_(library_format(type)) {}

  bool rounds() const override { return format_.rounds(); }
  std::string remark(torch::Device device) const override { return format_.remark(device); }

  OperandPtr input(const Tensor& x) const override {
    return operand([&] { return format_.input(x); }, x.size(0), x.size(1));
  }
  OperandPtr weight(at::TensorList weights, const std::vector<Tensor>& kept) const override {
    return operand([&] { return format_.weight(weights, kept); }, total_rows(weights),
                   weights.front().size(1));
  }
  OperandPtr gradient(const Tensor& g, const GradientStreams& streams) const override {
    return operand([&] { return format_.gradient(g, streams); }, g.size(0), g.size(1));
  }

  Tensor forward(Operand& x, Operand& weight) const override {
    return product(x, weight, x, weight,
                   [&](Operand& a, Operand& b) { return format_.forward(a, b); });
  }
  Tensor forward_to(Operand& x, Operand& weight, torch::ScalarType out) const override {
    return product(x, weight, x, weight,
                   [&](Operand& a, Operand& b) { return format_.forward_to(a, b, out); });
  }
  Tensor input_gradient(Operand& g, Operand& weight, torch::ScalarType out) const override {
    return product(g, weight, g, weight,
                   [&](Operand& a, Operand& b) { return format_.input_gradient(a, b, out); });
  }
  Tensor weight_gradient(Operand& g, Operand& x, torch::ScalarType out) const override {
    return gradient_product(
        g, x, [&](Operand& a, Operand& b) { return format_.weight_gradient(a, b, out); });
  }
  void add_weight_gradient(Operand& g, Operand& x, const Tensor& sum,
                           double factor) const override {
    gradient_product(g, x, [&](Operand& a, Operand& b) {
      format_.add_weight_gradient(a, b, sum, factor);
      return Tensor();
    });
  }

  std::optional<double> gradient_growth(Operand& x, Operand& weight) const override {
    const Uncounted part;
    return format_.gradient_growth(*counted(x).inner, *counted(weight).inner);
  }
  double packed_bytes(double depth, double columns) const override {
    return format_.packed_bytes(depth, columns);
  }
  int kept_kernels(std::int64_t rows, std::int64_t in, std::int64_t out) const override {
    return format_.kept_kernels(rows, in, out);
  }

 private:
  static CountedOperand& counted(Operand& operand) { return static_cast<CountedOperand&>(operand); }

  template <class Make>
  static OperandPtr operand(const Make& make, std::int64_t rows, std::int64_t columns) {
    const Uncounted part;
    return std::make_shared<CountedOperand>(make(), rows, columns);
  }

  template <class Multiply>
  Tensor counted_product(const LayerProduct& product, Operand& a, Operand& b,
                         const Multiply& multiply) const {
    if (WorkTally* const tally = WorkTally::current()) tally->add_product(product);
    const Uncounted part;
    return multiply(*counted(a).inner, *counted(b).inner);
  }

  /// Of `weight` (out, in) and something with a row for each of its inputs or outputs.
  template <class Multiply>
  Tensor product(Operand& a, Operand& b, Operand& rows, Operand& weight,
                 const Multiply& multiply) const {
    return counted_product(
        {type_, counted(rows).rows, counted(weight).columns, counted(weight).rows}, a, b, multiply);
  }

  /// Of g (rows, out) and x (rows, in).
  template <class Multiply>
  Tensor gradient_product(Operand& g, Operand& x, const Multiply& multiply) const {
    return counted_product({type_, counted(g).rows, counted(x).columns, counted(g).columns}, g, x,
                           multiply);
  }

  ComputeType type_;
  const MatmulFormat& format_;
};

const MatmulFormat& counting_format(ComputeType type) {
  static const std::map<ComputeType, std::unique_ptr<const CountingFormat>> formats = [] {
    std::map<ComputeType, std::unique_ptr<const CountingFormat>> all;
    for (const ComputeType one : compute_types())
      all.emplace(one, std::make_unique<const CountingFormat>(one));
    return all;
  }();
  return *formats.at(type);
}

/// The format of an operation's numbers; double is multiplied half as fast as fp32.
std::pair<ComputeType, double> format_of(torch::ScalarType dtype) {
  if (dtype == torch::kDouble || dtype == torch::kComplexFloat) return {ComputeType::kFloat32, 2.0};
  return {compute_type_of(dtype).value_or(ComputeType::kFloat32), 1.0};
}

torch::ScalarType dtype_of(const OperationCall& call, const OperationWork& work) {
  if (!work.matmuls.empty()) return work.matmuls.front().dtype;
  for (const OperationTensors& input : call.inputs)
    if (!input.tensors.empty() && input.tensors.front().defined())
      return input.tensors.front().scalar_type();
  return torch::kFloat;
}

}  // namespace

WorkTally::WorkTally() : counted_(counting_format) {
  HALFTONE_CHECK(current_tally == nullptr, "[work_tally] expected one tally at a time in a thread");
  current_tally = this;
}

WorkTally::~WorkTally() { current_tally = nullptr; }

WorkTally* WorkTally::current() { return current_tally; }

void WorkTally::add_product(const LayerProduct& product) {
  if (is_in_part()) return;
  const auto wide = [](std::int64_t size) { return static_cast<double>(size); };
  work_.layer_flops[product] +=
      2 * stands_for() * wide(product.rows) * wide(product.in) * wide(product.out);
  work_.operations += stands_for();
  ++count_;
  ++own_count_;
}

void WorkTally::add_operation(const OperationCall& call, double bytes, double functions) {
  if (is_in_part()) return;
  const OperationWork work = multiplies(call.name) ? operation_work(call) : OperationWork{};
  ++count_;
  if (work.flops > 0 || is_own_operation(call.name)) ++own_count_;
  work_.operations += stands_for();
  if (work.flops > 0) {
    const auto [type, slower] = format_of(dtype_of(call, work));
    const bool attends = call.name.find("attention") != std::string::npos;
    (attends ? work_.attention_flops : work_.matmul_flops)[type] +=
        stands_for() * slower * work.flops;
  } else {
    work_.bytes += stands_for() * bytes;
    work_.functions += stands_for() * functions;
  }
}

}  // namespace halftone
