// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/contrastive.h"

#include <torch/nn/functional/loss.h>

#include <set>
#include <utility>

#include "halftone/autocast/autocast.h"
#include "halftone/core/error.h"

namespace halftone {

using torch::Tensor;

namespace {

/// (N, E) and (M, E) -> (N, M), in fp32 whatever is around it: bf16 has steps of 0.004 below 1,
/// where cosines of what lies near each other are.
Tensor products_of(const Tensor& rows, const Tensor& others) {
  const Autocast fp32(autocast_device(rows.device().type()), {}, false);
  return rows.to(torch::kFloat).matmul(others.to(torch::kFloat).t());
}

}  // namespace

Tensor contrastive_loss(const Tensor& a, const Tensor& b, const Tensor& scale) {
  HALFTONE_CHECK(a.dim() == 2 && a.size(0) > 0 && a.sizes() == b.sizes(),
                 "[contrastive_loss] expected two (B, E) of one shape and at least one row, got ",
                 a.sizes(), " and ", b.sizes());
  const Autocast fp32(autocast_device(a.device().type()), {}, false);
  const Tensor scores = products_of(a, b) * scale.to(torch::kFloat);
  const Tensor own = torch::arange(a.size(0), torch::dtype(torch::kLong).device(a.device()));
  namespace F = torch::nn::functional;
  return (F::cross_entropy(scores, own) + F::cross_entropy(scores.t(), own)) / 2;
}

Tensor recall_at(std::int64_t k, const Tensor& queries, const Tensor& gallery) {
  HALFTONE_CHECK(queries.dim() == 2 && queries.size(0) > 0 && queries.sizes() == gallery.sizes(),
                 "[recall_at] expected two (N, E) of one shape and at least one row, got ",
                 queries.sizes(), " and ", gallery.sizes());
  const Tensor near = products_of(queries, gallery);
  const Tensor farther = near < near.diagonal().unsqueeze(1);
  return (farther.sum(1) >= queries.size(0) - k).to(torch::kDouble).mean();
}

Tensor nearest_rows(std::int64_t k, const Tensor& queries, const Tensor& gallery) {
  HALFTONE_CHECK(queries.dim() == 2 && gallery.dim() == 2 && queries.size(1) == gallery.size(1) &&
                     k >= 0 && k <= gallery.size(0),
                 "[nearest_rows] expected (N, E) and (M, E) of one E and k up to M, got ",
                 queries.sizes(), ", ", gallery.sizes(), " and ", k);
  return std::get<1>(products_of(queries, gallery).topk(k));
}

void RetrievalRecall::add(const Forms& forms, const Tensor& groups) {
  HALFTONE_CHECK(groups_.empty() || rows_.size() == forms.size(), "[RetrievalRecall] expected the ",
                 rows_.size(), " forms of the first batch, got ", forms.size());
  for (const auto& [form, rows] : forms) {
    HALFTONE_CHECK(groups_.empty() || rows_.contains(form), "[RetrievalRecall] '", form,
                   "' was no form of the first batch");
    HALFTONE_CHECK(rows.dim() == 2 && rows.size(0) == groups.size(0), "[RetrievalRecall] '", form,
                   "': expected (", groups.size(0), ", E), got ", rows.sizes());
  }
  for (const auto& [form, rows] : forms) rows_[form].push_back(rows);
  groups_.push_back(groups);
}

std::vector<RetrievalRecall::Recall> RetrievalRecall::take(const std::vector<std::int64_t>& ks) {
  std::vector<Recall> recalls;
  const auto gathered = std::exchange(rows_, {});
  if (groups_.empty()) return recalls;
  const Tensor groups = torch::cat(std::exchange(groups_, {}));
  std::map<std::string, Tensor> forms;
  for (const auto& [form, rows] : gathered) forms[form] = torch::cat(rows);
  const Tensor on_host = groups.to(torch::kCPU, torch::kLong).contiguous();
  const auto* first = on_host.const_data_ptr<std::int64_t>();
  for (const std::int64_t group : std::set<std::int64_t>(first, first + on_host.numel())) {
    const Tensor members = groups.eq(group).nonzero().squeeze(1);
    for (const auto& [from, queries] : forms)
      for (const auto& [to, gallery] : forms) {
        if (from == to) continue;
        for (const std::int64_t k : ks)
          recalls.push_back(
              {group, from, to, k,
               recall_at(k, queries.index_select(0, members), gallery.index_select(0, members)),
               members.size(0)});
      }
  }
  return recalls;
}

}  // namespace halftone
