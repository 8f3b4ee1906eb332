// SPDX-License-Identifier: Apache-2.0
#include "halftone/precision/kept_modules.h"

#include "halftone/autocast/keep_fp32.h"

namespace halftone {

KeptModules::KeptModules(torch::nn::Module& root, const std::vector<std::string>& patterns,
                         bool is_logged) {
  std::vector<torch::Tensor> unmarked;
  for (const auto& tensors : {root.parameters(), root.buffers()})
    for (const torch::Tensor& tensor : tensors)
      if (!keeps_fp32(tensor)) unmarked.push_back(tensor);
  if (!patterns.empty()) keep_fp32(root, patterns, is_logged);
  for (const torch::Tensor& tensor : unmarked)
    if (keeps_fp32(tensor)) marked_.emplace_back(tensor.getIntrusivePtr());
}

KeptModules::~KeptModules() {
  for (const auto& marked : marked_)
    if (auto alive = marked.lock()) unmark_keep_fp32(torch::Tensor(std::move(alive)));
}

}  // namespace halftone
