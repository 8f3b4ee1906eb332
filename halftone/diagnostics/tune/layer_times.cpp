// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/tune/layer_times.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>

#include "halftone/core/device.h"
#include "halftone/core/stopwatch.h"
#include "halftone/kernels/linear/layer_formats.h"
#include "halftone/kernels/linear/linear.h"
#include "halftone/kernels/linear/linear_cross_entropy.h"

namespace halftone {
namespace {

using torch::Tensor;

/// What decides a layer's time.
struct LayerShapes {
  std::int64_t rows = 0;
  std::int64_t in = 0;
  std::vector<std::int64_t> out;
  torch::ScalarType input = torch::kFloat;
  bool is_head = false;
  auto operator<=>(const LayerShapes&) const = default;
};

LayerShapes shapes_of(const TunableLayer& layer) {
  LayerShapes shapes{.rows = layer.rows,
                     .in = layer.weights.front().size(1),
                     .input = layer.input,
                     .is_head = layer.is_head};
  for (const Tensor& weight : layer.weights) shapes.out.push_back(weight.size(0));
  return shapes;
}

/// A layer of those shapes, its weights and their gradients one behind the other as an AdamW's are.
class TimedLayer {
 public:
  TimedLayer(const LayerShapes& shapes, torch::Device device) : shapes_(shapes), device_(device) {
    std::int64_t outputs = 0;
    for (const std::int64_t out : shapes.out) outputs += out;
    const Tensor values = filled(outputs, shapes.in), gradients = at::zeros_like(values);
    std::int64_t row = 0;
    for (const std::int64_t out : shapes.out) {
      const auto part = [&](const Tensor& all) { return all.narrow(0, row, out).detach(); };
      weights_.push_back(part(values).requires_grad_());
      weights_.back().mutable_grad() = part(gradients);
      row += out;
    }
    x_ = filled(shapes.rows, shapes.in).to(shapes.input).requires_grad_();
    gradient_ = filled(shapes.rows, outputs);
    targets_ = at::arange(shapes.rows, at::device(device).dtype(torch::kLong)).remainder(outputs);
    mask_ = at::ones({shapes.rows}, at::device(device));
  }

  LayerTime measure(ComputeType type, MixedPrecision& precision) {
    auto formats = std::make_shared<LayerFormats>();
    for (const Tensor& weight : weights_) formats->set(weight, type);
    precision.set_layer_formats(std::move(formats));
    LayerTime time;
    const Stopwatch forward;
    Tensor y;
    {
      const ForwardContext region = precision.forward_context();
      y = shapes_.is_head ? linear_cross_entropy(x_, weights_.front(), targets_, mask_)
                          : merged_linear(x_, weights_);
    }
    synchronize(device_);
    time.forward = forward.seconds();
    const Tensor g = shapes_.is_head ? Tensor() : gradient_.to(y.scalar_type());
    const Stopwatch backward;
    y.backward(g);
    synchronize(device_);
    time.backward = backward.seconds();
    x_.mutable_grad().reset();
    return time;
  }

 private:
  Tensor filled(std::int64_t rows, std::int64_t columns) const {
    return at::arange(rows * columns, at::device(device_).dtype(torch::kFloat))
        .mul_(0.37)
        .sin_()
        .mul_(0.05)
        .view({rows, columns});
  }

  LayerShapes shapes_;
  torch::Device device_;
  std::vector<Tensor> weights_;
  Tensor x_, gradient_, targets_, mask_;
};

std::map<ComputeType, LayerTime> times_of(const LayerShapes& shapes,
                                          const std::vector<ComputeType>& types,
                                          MixedPrecision& precision, int rounds) {
  TimedLayer layer(shapes, precision.device());
  constexpr double kNever = std::numeric_limits<double>::infinity();
  std::map<ComputeType, LayerTime> best;
  for (int round = 0; round <= rounds; ++round) {
    for (const ComputeType type : types) {
      const LayerTime time = layer.measure(type, precision);
      if (round == 0) {  // warms up
        best[type] = {kNever, kNever};
        continue;
      }
      LayerTime& known = best[type];
      known.forward = std::min(known.forward, time.forward);
      known.backward = std::min(known.backward, time.backward);
    }
  }
  return best;
}

}  // namespace

std::vector<std::map<ComputeType, LayerTime>> layer_times(const std::vector<TunableLayer>& layers,
                                                          const std::vector<ComputeType>& types,
                                                          const MixedPrecision& precision,
                                                          int rounds) {
  const torch::AutoGradMode with_gradients(true);
  MixedPrecision own(precision.policy(), {}, precision.device());
  std::map<LayerShapes, std::map<ComputeType, LayerTime>> known;
  std::vector<std::map<ComputeType, LayerTime>> times;
  for (const TunableLayer& layer : layers) {
    const LayerShapes shapes = shapes_of(layer);
    auto found = known.find(shapes);
    if (found == known.end())
      found = known.emplace(shapes, times_of(shapes, types, own, rounds)).first;
    times.push_back(found->second);
  }
  return times;
}

}  // namespace halftone
