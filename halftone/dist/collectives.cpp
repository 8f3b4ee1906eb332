// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "halftone/core/error.h"
#include "halftone/dist/collectives_impl.h"

namespace halftone {
namespace {

void check_tensor(const torch::Tensor& tensor, const char* operation) {
  HALFTONE_CHECK(tensor.defined() && tensor.layout() == torch::kStrided && tensor.is_contiguous(),
                 "[", operation, "] expected a contiguous tensor");
  HALFTONE_CHECK(tensor.is_cpu(), "[", operation,
                 "] processes exchange tensors in the CPU's memory (Gloo), but this one is on ",
                 tensor.device(), "; move it with .cpu()");
}

void check_pair(const torch::Tensor& to, const torch::Tensor& from, const char* operation) {
  check_tensor(to, operation);
  check_tensor(from, operation);
  HALFTONE_CHECK(to.dtype() == from.dtype(), "[", operation,
                 "] expected two tensors of one dtype, got ", to.dtype(), " and ", from.dtype());
}

}  // namespace

void check_all_to_all(const torch::Tensor& received, const torch::Tensor& sent, std::int64_t size) {
  check_pair(received, sent, "all_to_all");
  HALFTONE_CHECK(received.sizes() == sent.sizes(),
                 "[all_to_all] expected two tensors of one shape, got ", received.sizes(), " and ",
                 sent.sizes());
  HALFTONE_CHECK(sent.dim() > 0 && sent.size(0) % size == 0,
                 "[all_to_all] expected a first dimension of ", size,
                 " equal pieces, got the shape ", sent.sizes());
}

void check_all_gather(const torch::Tensor& all, const torch::Tensor& own, std::int64_t size) {
  check_pair(all, own, "all_gather");
  HALFTONE_CHECK(all.numel() == size * own.numel(), "[all_gather] expected room for ", size,
                 " times ", own.numel(), " elements, got the shape ", all.sizes());
}

void check_broadcast(const torch::Tensor& tensor, std::int64_t root, std::int64_t size) {
  check_tensor(tensor, "broadcast");
  HALFTONE_CHECK(root >= 0 && root < size, "[broadcast] expected a process from 0 to ", size - 1,
                 ", got ", root);
}

Bytes::Bytes(const torch::Tensor& source)
    : tensor(source.numel() == 0 ? torch::empty({0}, torch::kByte)
                                 : source.detach().view(-1).view(torch::kByte)) {}

Bytes Bytes::piece(std::int64_t i, std::int64_t pieces) const {
  const std::int64_t length = tensor.numel() / pieces;
  return Bytes(tensor.narrow(0, i * length, length));
}

void Bytes::copy_from(const Bytes& other) const {
  if (tensor.data_ptr() == other.tensor.data_ptr()) return;
  std::memcpy(tensor.data_ptr(), other.tensor.data_ptr(), tensor.nbytes());
}

std::vector<std::string> gather_strings(ProcessGroup& group, const std::string& own) {
  const std::int64_t size = group.size();
  torch::Tensor lengths = torch::empty({size}, torch::kLong);
  group.all_gather(lengths, torch::tensor({static_cast<std::int64_t>(own.size())}))->wait();
  const auto longest = lengths.max().item<std::int64_t>();
  torch::Tensor mine = torch::zeros({longest}, torch::kByte);
  std::memcpy(mine.data_ptr(), own.data(), own.size());
  torch::Tensor all = torch::empty({size, longest}, torch::kByte);
  group.all_gather(all, mine)->wait();
  std::vector<std::string> texts;
  for (std::int64_t i = 0; i < size; ++i)
    texts.emplace_back(reinterpret_cast<const char*>(all.data_ptr()) + i * longest,
                       lengths[i].item<std::int64_t>());
  return texts;
}

}  // namespace halftone
