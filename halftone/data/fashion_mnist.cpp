// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/fashion_mnist.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/data/idx_file.h"

namespace halftone {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kSide = 28;
constexpr std::int64_t kClasses = 10;
constexpr float kWhite = 255.0F;

fs::path find_file(const fs::path& folder, const std::string& name) {
  for (const char* ending : {".gz", ""}) {
    const fs::path path = folder / (name + ending);
    if (fs::exists(path)) return path;
  }
  throw UserError(
      fmt::format("'{}' has no {}.gz; 'halftone data fetch dataset-fashion-mnist' prints a folder "
                  "that has it",
                  folder.string(), name));
}

torch::Tensor read_array(const fs::path& path, const std::vector<std::int64_t>& shape) {
  torch::Tensor array = read_idx(path);
  const bool fits = array.scalar_type() == torch::kByte &&
                    array.dim() == static_cast<std::int64_t>(shape.size()) && array.size(0) > 0 &&
                    array.sizes().slice(1) == at::IntArrayRef(shape).slice(1);
  if (!fits)
    throw UserError(fmt::format(
        "'{}' is not a file of Fashion-MNIST: expected uint8 of shape ({}), got {} of ({})",
        path.string(), shape.size() == 1 ? "N" : fmt::format("N, {}, {}", kSide, kSide),
        c10::toString(array.scalar_type()), fmt::join(array.sizes(), ", ")));
  return array;
}

// Images as float32 and labels as int64.
std::pair<torch::Tensor, torch::Tensor> read_part(const fs::path& folder, const std::string& part) {
  const fs::path label_path = find_file(folder, part + "-labels-idx1-ubyte");
  const torch::Tensor images =
      read_array(find_file(folder, part + "-images-idx3-ubyte"), {0, kSide, kSide});
  const torch::Tensor labels = read_array(label_path, {0});
  if (images.size(0) != labels.size(0))
    throw UserError(fmt::format("'{}' has {} labels for {} images; fetch the data again",
                                label_path.string(), labels.size(0), images.size(0)));
  const auto largest = labels.max().item<std::int64_t>();
  if (largest >= kClasses)
    throw UserError(fmt::format("'{}' has the label {}, expected 0 to {}; fetch the data again",
                                label_path.string(), largest, kClasses - 1));
  return {images.to(torch::kFloat).div_(kWhite).unsqueeze(1), labels.to(torch::kLong)};
}

}  // namespace

FashionMnist read_fashion_mnist(const fs::path& folder) {
  FashionMnist data;
  std::tie(data.train_images, data.train_labels) = read_part(folder, "train");
  std::tie(data.test_images, data.test_labels) = read_part(folder, "t10k");
  return data;
}

}  // namespace halftone
