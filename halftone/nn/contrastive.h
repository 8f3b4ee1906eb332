// SPDX-License-Identifier: Apache-2.0
// What puts several forms of a thing at one place of a space, as CLIP does with pictures and texts,
// and how well that went; also what is nearest to a thing.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace halftone {

/// InfoNCE both ways (van den Oord et al. 2018; Radford et al. 2021): the mean of the cross
/// entropies of which b belongs to each a, and which a to each b. Row i of `a` and `b` (B, E) is
/// the same thing; `scale` is a scalar that the products are multiplied by, 1 / temperature.
/// Computed in fp32 in every precision: a large scale makes small differences of a cosine large.
/// Of several processes each knows the rows of its own batch only. Returns an fp32 scalar,
/// differentiable in all three. Throws c10::Error for other shapes, and for B = 0.
torch::Tensor contrastive_loss(const torch::Tensor& a, const torch::Tensor& b,
                               const torch::Tensor& scale);

/// The share of `queries` (N, E), N >= 1, whose own row of `gallery` (N, E) is among the k with the
/// largest products. Ties count against it, as does NaN: where all rows are at one place, nothing
/// is found. Computed in fp32 in every precision, as nearest_rows() is. fp64 scalar.
torch::Tensor recall_at(std::int64_t k, const torch::Tensor& queries, const torch::Tensor& gallery);

/// Which k rows of `gallery` (M, E) have the largest products with each of `queries` (N, E), the
/// largest first: int64 (N, k), k <= M.
torch::Tensor nearest_rows(std::int64_t k, const torch::Tensor& queries,
                           const torch::Tensor& gallery);

/// Recall from each form of a thing to each other, over all that is gathered batch by batch: for
/// validation_step() and on_validation_loader_end(). Of several processes each searches what it has
/// gathered itself: evaluate in one process to search all.
class RetrievalRecall {
 public:
  /// Rows of one form: "picture" -> (B, E).
  using Forms = std::map<std::string, torch::Tensor>;

  /// Row i of each form is the same thing. `groups` (B) int64: only things of one group are
  /// searched among each other. Every batch has the same forms, in `forms` of one B; throws
  /// c10::Error for others, and keeps none of them.
  void add(const Forms& forms, const torch::Tensor& groups);

  /// Of the queries of one form in one group.
  struct Recall {
    std::int64_t group = 0;
    std::string from;
    std::string to;
    std::int64_t k = 0;
    torch::Tensor share;     // recall_at(), fp64 scalar
    std::int64_t count = 0;  // of queries

    std::string name() const { return from + "_to_" + to + "_at_" + std::to_string(k); }
  };
  /// For each group that there is, each pair of forms and each k; and forgets what was gathered.
  std::vector<Recall> take(const std::vector<std::int64_t>& ks = {1, 10});

 private:
  std::map<std::string, std::vector<torch::Tensor>> rows_;
  std::vector<torch::Tensor> groups_;
};

}  // namespace halftone
