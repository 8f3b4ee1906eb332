// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <filesystem>

namespace halftone {

/// Images with one of ten labels each. Fashion-MNIST has N = 60,000 to train with and 10,000 to
/// test with.
struct FashionMnist {
  torch::Tensor train_images;  // (N, 1, 28, 28) float32, 0..1
  torch::Tensor train_labels;  // (N) int64, 0..9
  torch::Tensor test_images;
  torch::Tensor test_labels;
};

/// Reads the four files of Fashion-MNIST in `folder` (`halftone data fetch dataset-fashion-mnist`
/// prints it, fetch_dataset() returns it), with or without ".gz"; MNIST and others that share its
/// names and shapes too. Throws UserError when one is missing, damaged, or not as the struct says.
FashionMnist read_fashion_mnist(const std::filesystem::path& folder);

}  // namespace halftone
