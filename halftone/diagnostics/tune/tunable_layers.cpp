// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/tune/tunable_layers.h"

#include <algorithm>
#include <map>
#include <memory>
#include <unordered_map>
#include <utility>

#include "halftone/autocast/keep_fp32.h"
#include "halftone/inspect/recorder_impl.h"
#include "halftone/nn/lm_head.h"

namespace halftone {
namespace {

using torch::Tensor;

/// The paths of modules by the weights that they multiply.
std::unordered_map<const c10::TensorImpl*, std::string> layer_paths(torch::nn::Module& network) {
  std::unordered_map<const c10::TensorImpl*, std::string> paths;
  network.apply([&](const std::string& path, torch::nn::Module& module) {
    const Tensor weight = multiplied_weight(module);
    if (weight.defined() && !keeps_fp32(weight)) paths.emplace(weight.unsafeGetTensorImpl(), path);
  });
  return paths;
}

/// "layers.0.attention.wq+wk+wv" of the three paths.
std::string joined_name(const std::vector<std::string>& paths) {
  const std::size_t dot = paths.front().rfind('.');
  const std::string owner = dot == std::string::npos ? "" : paths.front().substr(0, dot + 1);
  std::string name = paths.front();
  for (std::size_t i = 1; i < paths.size(); ++i)
    name += "+" + (paths[i].starts_with(owner) ? paths[i].substr(owner.size()) : paths[i]);
  return name;
}

class LayerFinder : public Recorder {
 public:
  explicit LayerFinder(torch::nn::Module& network)
      : Recorder(network), paths_(layer_paths(network)) {}

  std::vector<TunableLayer> layers() const { return layers_; }

 protected:
  void on_begin(const OperationCall& call, const OpenCall& /*open*/) override {
    const bool is_layer = call.name == "halftone::linear";
    const bool is_head = call.name == "halftone::linear_cross_entropy";
    if (call.is_backward || is_in_backward() || (!is_layer && !is_head) || call.inputs.size() < 2)
      return;
    const auto& around = open_calls();
    if (std::any_of(around.begin(), around.end(),
                    [](const OpenCall& outer) { return is_own_operation(outer.name); }))
      return;
    const std::vector<Tensor>& x = call.inputs[0].tensors;
    if (!x.empty() && x.front().numel() > 0) add(x.front(), call.inputs[1].tensors, is_head);
  }
  void on_end(const OperationCall& /*call*/, const OpenCall& /*open*/) override {}

 private:
  void add(const Tensor& x, const std::vector<Tensor>& weights, bool is_head) {
    TunableLayer layer{
        .rows = x.numel() / x.size(-1), .input = x.scalar_type(), .is_head = is_head};
    for (const Tensor& weight : weights) {
      const auto path = paths_.find(weight.unsafeGetTensorImpl());
      if (path == paths_.end()) continue;
      layer.modules.push_back(path->second);
      layer.weights.push_back(weight);
    }
    if (layer.modules.empty()) return;
    layer.name = joined_name(layer.modules);
    const auto [known, is_new] = index_.emplace(layer.name, layers_.size());
    if (is_new)
      layers_.push_back(std::move(layer));
    else
      layers_[known->second].rows += layer.rows;
  }

  std::unordered_map<const c10::TensorImpl*, std::string> paths_;
  std::vector<TunableLayer> layers_;
  std::map<std::string, std::size_t> index_;
};

}  // namespace

std::int64_t TunableLayer::multiply_adds() const {
  std::int64_t sum = 0;
  for (const Tensor& weight : weights) sum += rows * weight.numel();
  return sum;
}

std::vector<TunableLayer> tunable_layers(const TrainingStep& step,
                                         const MixedPrecision& precision) {
  const auto finder = std::make_shared<LayerFinder>(*step.network);
  {
    const Observation observation(finder);
    step.loss(precision);
  }
  return finder->layers();
}

}  // namespace halftone
