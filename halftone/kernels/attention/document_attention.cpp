// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/attention/document_attention.h"

#include <ATen/ops/cat.h>

#include <vector>

#include "halftone/core/error.h"
#include "halftone/kernels/linear/compute_context.h"

namespace halftone {

using torch::Tensor;

namespace {

/// The lengths of all documents, row after row.
std::vector<std::int64_t> document_lengths(const DocumentEnds& rows, const Tensor& qkv) {
  HALFTONE_CHECK(qkv.dim() == 3 && static_cast<std::int64_t>(rows.size()) == qkv.size(0),
                 "[document_attention] expected the documents of ", rows.size(), " rows, got qkv ",
                 qkv.sizes());
  std::vector<std::int64_t> lengths;
  for (const std::vector<std::int64_t>& ends : rows) {
    std::int64_t begin = 0;
    for (const std::int64_t end : ends) {
      HALFTONE_CHECK(end > begin, "[document_attention] expected ends that rise, got ", end,
                     " behind ", begin);
      lengths.push_back(end - begin);
      begin = end;
    }
    HALFTONE_CHECK(begin == qkv.size(1), "[document_attention] expected documents that end with ",
                   qkv.size(1), ", got ", begin);
  }
  return lengths;
}

}  // namespace

Tensor attend_documents(
    const Tensor& qkv, const Tensor& rotations,
    const std::function<Tensor(const Tensor& qkv, const Tensor& rotations)>& attend) {
  const auto documents = compute_context().documents;
  if (!documents) return attend(qkv, rotations);
  const std::vector<std::int64_t> lengths = document_lengths(*documents, qkv);
  std::vector<Tensor> results;
  // One split: its gradient is put together once, not once for each document.
  for (const Tensor& document : qkv.flatten(0, 1).split_with_sizes(lengths))
    results.push_back(
        attend(document.unsqueeze(0), rotations.narrow(0, 0, document.size(0))).squeeze(0));
  return at::cat(results).unflatten(0, {qkv.size(0), qkv.size(1)});
}

}  // namespace halftone
