// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/torch_layers.h"

#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/rnn.h>

namespace halftone {
namespace {

template <class Layer>
bool is_layer(const torch::nn::Module& module) {
  return dynamic_cast<const Layer*>(&module) != nullptr;
}

struct TorchLayerKind {
  bool (*is_one)(const torch::nn::Module& module);
  TorchLayer layer;
};

}  // namespace

TorchLayer torch_layer(const torch::nn::Module& module) {
  static const TorchLayerKind kinds[] = {
      {is_layer<torch::nn::LinearImpl>, {"torch::nn::Linear", "halftone::Linear"}},
      {is_layer<torch::nn::Conv2dImpl>, {"torch::nn::Conv2d", "halftone::Conv2d"}},
      {is_layer<torch::nn::MultiheadAttentionImpl>,
       {"torch::nn::MultiheadAttention", "halftone::MultiHeadAttention"}},
      {is_layer<torch::nn::BilinearImpl>, {"torch::nn::Bilinear", ""}},
      {is_layer<torch::nn::Conv1dImpl>, {"torch::nn::Conv1d", ""}},
      {is_layer<torch::nn::Conv3dImpl>, {"torch::nn::Conv3d", ""}},
      {is_layer<torch::nn::ConvTranspose1dImpl>, {"torch::nn::ConvTranspose1d", ""}},
      {is_layer<torch::nn::ConvTranspose2dImpl>, {"torch::nn::ConvTranspose2d", ""}},
      {is_layer<torch::nn::ConvTranspose3dImpl>, {"torch::nn::ConvTranspose3d", ""}},
      {is_layer<torch::nn::LSTMImpl>, {"torch::nn::LSTM", ""}},
      {is_layer<torch::nn::GRUImpl>, {"torch::nn::GRU", ""}},
      {is_layer<torch::nn::RNNImpl>, {"torch::nn::RNN", ""}},
      {is_layer<torch::nn::LSTMCellImpl>, {"torch::nn::LSTMCell", ""}},
      {is_layer<torch::nn::GRUCellImpl>, {"torch::nn::GRUCell", ""}},
      {is_layer<torch::nn::RNNCellImpl>, {"torch::nn::RNNCell", ""}}};
  for (const TorchLayerKind& kind : kinds)
    if (kind.is_one(module)) return kind.layer;
  return {};
}

}  // namespace halftone
