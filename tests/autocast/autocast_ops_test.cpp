// SPDX-License-Identifier: Apache-2.0
// Every operation that autocast treats on the CPU, called.
#include <ATen/Functions.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/autocast/cast_policy.h"

namespace halftone::autocast_ops_test {
namespace {

using testing::HasSubstr;
using torch::ScalarType;
using torch::Tensor;

/// The same arguments each time, rounded to one dtype, or the first to another, and then cast.
class Make {
 public:
  explicit Make(ScalarType dtype, std::optional<ScalarType> first = {},
                std::optional<ScalarType> cast = {})
      : dtype_(dtype), first_(first), cast_(cast) {
    torch::manual_seed(1);
  }
  Tensor of(const Tensor& x) {
    const Tensor made = x.to(first_.value_or(dtype_));
    first_.reset();
    return cast_ ? made.to(*cast_) : made;
  }
  Tensor operator()(at::IntArrayRef shape) { return of(torch::rand(shape) * 0.5 + 0.25); }
  Tensor positive_definite() {
    const Tensor r = torch::rand({3, 3});
    return of(r + r.t() + torch::eye(3) * 4);
  }

 private:
  ScalarType dtype_;
  std::optional<ScalarType> first_;
  std::optional<ScalarType> cast_;
};

using Call = std::function<Tensor(Make&)>;

Tensor longs(std::initializer_list<std::int64_t> values) {
  return torch::tensor(at::ArrayRef<std::int64_t>(values), torch::kLong);
}

constexpr std::int64_t kMean = at::Reduction::Mean;

const std::map<std::string, Call>& products() {
  static const std::map<std::string, Call> calls{
      {"_addmm_activation",
       [](Make& m) {
         return at::_addmm_activation(m({3}), m({2, 4}), m({4, 3}));
       }},
      {"_convolution.deprecated",
       [](Make& m) {
         return at::_convolution(m({1, 2, 5}), m({3, 2, 3}), m({3}), {1}, {0}, {1}, false, {0}, 1,
                                 false, false, true);
       }},
      {"_native_multi_head_attention",
       [](Make& m) {
         const Tensor x = m({2, 3, 4});
         return std::get<0>(at::_native_multi_head_attention(x, x, x, 4, 2, m({12, 4}), m({12}),
                                                             m({4, 4}), m({4})));
       }},
      {"addbmm",
       [](Make& m) {
         return at::addbmm(m({2, 2}), m({3, 2, 4}), m({3, 4, 2}));
       }},
      {"addmm",
       [](Make& m) {
         return at::addmm(m({3}), m({2, 4}), m({4, 3}));
       }},
      {"baddbmm",
       [](Make& m) {
         return at::baddbmm(m({3, 2, 2}), m({3, 2, 4}), m({3, 4, 2}));
       }},
      {"bmm",
       [](Make& m) {
         return at::bmm(m({3, 2, 4}), m({3, 4, 2}));
       }},
      {"conv1d",
       [](Make& m) {
         return at::conv1d(m({1, 2, 5}), m({3, 2, 3}), m({3}));
       }},
      {"conv1d.padding",
       [](Make& m) {
         return at::conv1d(m({1, 2, 5}), m({3, 2, 3}), m({3}), 1, "same");
       }},
      {"conv2d",
       [](Make& m) {
         return at::conv2d(m({1, 2, 5, 5}), m({3, 2, 3, 3}), m({3}));
       }},
      {"conv2d.padding",
       [](Make& m) {
         return at::conv2d(m({1, 2, 5, 5}), m({3, 2, 3, 3}), m({3}), 1, "same");
       }},
      {"conv3d",
       [](Make& m) {
         return at::conv3d(m({1, 2, 3, 3, 3}), m({3, 2, 2, 2, 2}));
       }},
      {"conv3d.padding",
       [](Make& m) {
         return at::conv3d(m({1, 2, 3, 3, 3}), m({3, 2, 3, 3, 3}), {}, 1, "same");
       }},
      {"conv_tbc",
       [](Make& m) {
         return at::conv_tbc(m({5, 1, 2}), m({3, 2, 3}), m({3}));
       }},
      {"conv_transpose1d",
       [](Make& m) {
         return at::conv_transpose1d(m({1, 2, 5}), m({2, 3, 3}), m({3}));
       }},
      {"conv_transpose2d.input",
       [](Make& m) {
         return at::conv_transpose2d(m({1, 2, 4, 4}), m({2, 3, 3, 3}), m({3}));
       }},
      {"conv_transpose3d.input",
       [](Make& m) {
         return at::conv_transpose3d(m({1, 2, 3, 3, 3}), m({2, 3, 2, 2, 2}));
       }},
      {"linalg_vecdot",
       [](Make& m) {
         return at::linalg_vecdot(m({2, 4}), m({2, 4}));
       }},
      {"linear",
       [](Make& m) {
         return at::linear(m({2, 4}), m({3, 4}), m({3}));
       }},
      {"matmul",
       [](Make& m) {
         return at::matmul(m({2, 2, 4}), m({4, 3}));
       }},
      {"mm",
       [](Make& m) {
         return at::mm(m({2, 4}), m({4, 3}));
       }},
      {"prelu",
       [](Make& m) {
         return at::prelu(m.of(torch::randn({2, 4})), m({1}));
       }},
      {"scaled_dot_product_attention",
       [](Make& m) {
         return at::scaled_dot_product_attention(m({1, 2, 3, 4}), m({1, 2, 3, 4}), m({1, 2, 3, 4}));
       }},
  };
  return calls;
}

const std::map<std::string, Call>& layers_and_losses() {
  static const std::map<std::string, Call> calls{
      {"_grid_sampler_2d_cpu_fallback",
       [](Make& m) {
         return at::_grid_sampler_2d_cpu_fallback(m({1, 1, 4, 4}), m({1, 2, 2, 2}), 0, 0, false);
       }},
      {"adaptive_avg_pool3d",
       [](Make& m) {
         return at::adaptive_avg_pool3d(m({1, 1, 4, 4, 4}), {2, 2, 2});
       }},
      {"adaptive_max_pool3d",
       [](Make& m) {
         return std::get<0>(at::adaptive_max_pool3d(m({1, 1, 4, 4, 4}), {2, 2, 2}));
       }},
      {"avg_pool3d",
       [](Make& m) {
         return at::avg_pool3d(m({1, 1, 4, 4, 4}), {2, 2, 2});
       }},
      {"binary_cross_entropy",
       [](Make& m) {
         return at::binary_cross_entropy(m({2, 3}), m({2, 3}));
       }},
      {"binary_cross_entropy_with_logits",
       [](Make& m) {
         return at::binary_cross_entropy_with_logits(m({2, 3}), m({2, 3}));
       }},
      {"cdist",
       [](Make& m) {
         return at::cdist(m({2, 3}), m({4, 3}));
       }},
      {"cosine_embedding_loss",
       [](Make& m) {
         return at::cosine_embedding_loss(m({2, 3}), m({2, 3}), m({2}));
       }},
      {"cross_entropy_loss",
       [](Make& m) {
         return at::cross_entropy_loss(m({2, 3}), longs({0, 2}));
       }},
      {"ctc_loss.IntList",
       [](Make& m) {
         return at::ctc_loss(m({5, 1, 4}), torch::ones({1, 2}, torch::kLong), {5}, {2});
       }},
      {"ctc_loss.Tensor",
       [](Make& m) {
         return at::ctc_loss(m({5, 1, 4}), torch::ones({1, 2}, torch::kLong), longs({5}),
                             longs({2}));
       }},
      {"fake_quantize_per_tensor_affine",
       [](Make& m) { return at::fake_quantize_per_tensor_affine(m({5}), 0.1, 0, -8, 7); }},
      {"fractional_max_pool2d",
       [](Make& m) {
         return std::get<0>(
             at::fractional_max_pool2d(m({1, 1, 6, 6}), {2, 2}, {3, 3}, m({1, 1, 2})));
       }},
      {"fractional_max_pool3d",
       [](Make& m) {
         return std::get<0>(
             at::fractional_max_pool3d(m({1, 1, 6, 6, 6}), {2, 2, 2}, {3, 3, 3}, m({1, 1, 3})));
       }},
      {"grid_sampler",
       [](Make& m) {
         return at::grid_sampler(m({1, 1, 4, 4}), m({1, 2, 2, 2}), 0, 0, false);
       }},
      {"grid_sampler_2d",
       [](Make& m) {
         return at::grid_sampler_2d(m({1, 1, 4, 4}), m({1, 2, 2, 2}), 0, 0, false);
       }},
      {"grid_sampler_3d",
       [](Make& m) {
         return at::grid_sampler_3d(m({1, 1, 3, 3, 3}), m({1, 2, 2, 2, 3}), 0, 0, false);
       }},
      {"hinge_embedding_loss",
       [](Make& m) {
         return at::hinge_embedding_loss(m({2, 3}), m({2, 3}).sign());
       }},
      {"huber_loss",
       [](Make& m) {
         return at::huber_loss(m({2, 3}), m({2, 3}));
       }},
      {"kl_div",
       [](Make& m) {
         return at::kl_div(m({2, 3}), m({2, 3}));
       }},
      {"l1_loss",
       [](Make& m) {
         return at::l1_loss(m({2, 3}), m({2, 3}));
       }},
      {"margin_ranking_loss",
       [](Make& m) { return at::margin_ranking_loss(m({3}), m({3}), m({3}).sign()); }},
      {"max_pool3d",
       [](Make& m) {
         return at::max_pool3d(m({1, 1, 4, 4, 4}), {2, 2, 2});
       }},
      {"max_unpool2d",
       [](Make& m) {
         return at::max_unpool2d(m({1, 1, 1, 2}), longs({0, 3}).view({1, 1, 1, 2}), {2, 2});
       }},
      {"max_unpool3d",
       [](Make& m) {
         return at::max_unpool3d(m({1, 1, 1, 1, 2}), longs({0, 3}).view({1, 1, 1, 1, 2}), {2, 2, 2},
                                 {1, 1, 1}, {0, 0, 0});
       }},
      {"mse_loss",
       [](Make& m) {
         return at::mse_loss(m({2, 3}), m({2, 3}));
       }},
      {"multi_margin_loss",
       [](Make& m) {
         return at::multi_margin_loss(m({2, 3}), longs({0, 2}));
       }},
      {"multilabel_margin_loss",
       [](Make& m) {
         return at::multilabel_margin_loss(m({3}), longs({0, 2, -1}));
       }},
      {"multilabel_margin_loss_forward",
       [](Make& m) {
         return std::get<0>(at::multilabel_margin_loss_forward(m({3}), longs({0, 2, -1}), kMean));
       }},
      {"nll_loss",
       [](Make& m) {
         return at::nll_loss(m({2, 3}), longs({0, 2}));
       }},
      {"nll_loss2d",
       [](Make& m) {
         return at::nll_loss2d(m({1, 3, 1, 2}), longs({0, 2}).view({1, 1, 2}));
       }},
      {"poisson_nll_loss",
       [](Make& m) { return at::poisson_nll_loss(m({3}), m({3}), true, false, 1e-8, kMean); }},
      {"reflection_pad1d",
       [](Make& m) {
         return at::reflection_pad1d(m({1, 4}), {1, 1});
       }},
      {"reflection_pad2d",
       [](Make& m) {
         return at::reflection_pad2d(m({1, 4, 4}), {1, 1, 1, 1});
       }},
      {"replication_pad1d",
       [](Make& m) {
         return at::replication_pad1d(m({1, 4}), {1, 1});
       }},
      {"replication_pad2d",
       [](Make& m) {
         return at::replication_pad2d(m({1, 4, 4}), {1, 1, 1, 1});
       }},
      {"replication_pad3d",
       [](Make& m) {
         return at::replication_pad3d(m({1, 3, 3, 3}), {1, 1, 1, 1, 1, 1});
       }},
      {"smooth_l1_loss",
       [](Make& m) {
         return at::smooth_l1_loss(m({2, 3}), m({2, 3}));
       }},
      {"soft_margin_loss", [](Make& m) { return at::soft_margin_loss(m({3}), m({3})); }},
      {"triplet_margin_loss",
       [](Make& m) {
         return at::triplet_margin_loss(m({2, 3}), m({2, 3}), m({2, 3}));
       }},
  };
  return calls;
}

const std::map<std::string, Call>& linear_algebra() {
  static const std::map<std::string, Call> calls{
      {"_lu_with_info",
       [](Make& m) { return std::get<0>(at::_lu_with_info(m.positive_definite())); }},
      {"cholesky_inverse", [](Make& m) { return at::cholesky_inverse(m.positive_definite()); }},
      {"cholesky_solve",
       [](Make& m) {
         return at::cholesky_solve(m({3, 2}), m.positive_definite());
       }},
      {"geqrf",
       [](Make& m) {
         return std::get<0>(at::geqrf(m({3, 2})));
       }},
      {"inverse", [](Make& m) { return at::inverse(m.positive_definite()); }},
      {"linalg_cholesky", [](Make& m) { return at::linalg_cholesky(m.positive_definite()); }},
      {"linalg_cholesky_ex",
       [](Make& m) { return std::get<0>(at::linalg_cholesky_ex(m.positive_definite())); }},
      {"linalg_cond", [](Make& m) { return at::linalg_cond(m.positive_definite()); }},
      {"linalg_cond.p_str", [](Make& m) { return at::linalg_cond(m.positive_definite(), "fro"); }},
      {"linalg_eig", [](Make& m) { return std::get<0>(at::linalg_eig(m.positive_definite())); }},
      {"linalg_eigh", [](Make& m) { return std::get<0>(at::linalg_eigh(m.positive_definite())); }},
      {"linalg_eigvals", [](Make& m) { return at::linalg_eigvals(m.positive_definite()); }},
      {"linalg_eigvalsh", [](Make& m) { return at::linalg_eigvalsh(m.positive_definite()); }},
      {"linalg_householder_product",
       [](Make& m) {
         return at::linalg_householder_product(m({3, 2}), m({2}));
       }},
      {"linalg_inv", [](Make& m) { return at::linalg_inv(m.positive_definite()); }},
      {"linalg_inv_ex",
       [](Make& m) { return std::get<0>(at::linalg_inv_ex(m.positive_definite())); }},
      {"linalg_lstsq",
       [](Make& m) {
         return std::get<0>(at::linalg_lstsq(m.positive_definite(), m({3, 2})));
       }},
      {"linalg_matrix_rank",
       [](Make& m) { return at::linalg_matrix_rank(m.positive_definite(), 0.5); }},
      {"linalg_matrix_rank.atol_rtol_float",
       [](Make& m) {
         return at::linalg_matrix_rank(m.positive_definite(), std::optional<double>(0.5),
                                       std::optional<double>(0.1));
       }},
      {"linalg_matrix_rank.atol_rtol_tensor",
       [](Make& m) {
         return at::linalg_matrix_rank(m.positive_definite(), std::optional<Tensor>(m({})),
                                       std::optional<Tensor>(m({})));
       }},
      {"linalg_matrix_rank.tol_tensor",
       [](Make& m) { return at::linalg_matrix_rank(m.positive_definite(), m({}), false); }},
      {"linalg_matrix_sqrth",
       [](Make& m) {  // LibTorch 2.11 has no such function
         return c10::Dispatcher::singleton()
             .findSchemaOrThrow("aten::linalg_matrix_sqrth", "")
             .typed<Tensor(const Tensor&)>()
             .call(m.positive_definite());
       }},
      {"linalg_qr",
       [](Make& m) {
         return std::get<0>(at::linalg_qr(m({3, 2})));
       }},
      {"linalg_solve",
       [](Make& m) {
         return at::linalg_solve(m.positive_definite(), m({3, 2}));
       }},
      {"linalg_svd",
       [](Make& m) {
         return std::get<1>(at::linalg_svd(m({3, 2})));
       }},
      {"linalg_svdvals",
       [](Make& m) {
         return at::linalg_svdvals(m({3, 2}));
       }},
      {"linalg_tensorinv",
       [](Make& m) {
         return at::linalg_tensorinv(m.positive_definite().view({3, 3, 1}), 1);
       }},
      {"linalg_tensorsolve",
       [](Make& m) { return at::linalg_tensorsolve(m.positive_definite(), m({3})); }},
      {"lu_solve",
       [](Make& m) {
         const Tensor pivots = torch::arange(1, 4, torch::kInt);
         return at::lu_solve(m({3, 2}), m.positive_definite(), pivots);
       }},
      {"orgqr",
       [](Make& m) {
         return at::orgqr(m({3, 2}), m({2}));
       }},
      {"ormqr",
       [](Make& m) {
         return at::ormqr(m({3, 2}), m({2}), m({3, 2}));
       }},
      {"pinverse",
       [](Make& m) {
         return at::pinverse(m({3, 2}));
       }},
      {"svd",
       [](Make& m) {
         return std::get<1>(at::svd(m({3, 2})));
       }},
      {"trace",
       [](Make& m) {
         return at::trace(m({3, 3}));
       }},
      {"triangular_solve",
       [](Make& m) {
         return std::get<0>(at::triangular_solve(m({3, 2}), m.positive_definite()));
       }},
  };
  return calls;
}

const std::map<std::string, Call>& transforms_and_joins() {
  static const std::map<std::string, Call> calls{
      {"fft_fft", [](Make& m) { return at::fft_fft(m({4})); }},
      {"fft_fft2",
       [](Make& m) {
         return at::fft_fft2(m({4, 4}));
       }},
      {"fft_fftn",
       [](Make& m) {
         return at::fft_fftn(m({4, 4}));
       }},
      {"fft_hfft", [](Make& m) { return at::fft_hfft(m({4})); }},
      {"fft_ifft", [](Make& m) { return at::fft_ifft(m({4})); }},
      {"fft_ifft2",
       [](Make& m) {
         return at::fft_ifft2(m({4, 4}));
       }},
      {"fft_ifftn",
       [](Make& m) {
         return at::fft_ifftn(m({4, 4}));
       }},
      {"fft_ihfft", [](Make& m) { return at::fft_ihfft(m({4})); }},
      {"fft_irfft", [](Make& m) { return at::fft_irfft(m({4})); }},
      {"fft_irfft2",
       [](Make& m) {
         return at::fft_irfft2(m({4, 4}));
       }},
      {"fft_irfftn",
       [](Make& m) {
         return at::fft_irfftn(m({4, 4}));
       }},
      {"fft_rfft", [](Make& m) { return at::fft_rfft(m({4})); }},
      {"fft_rfft2",
       [](Make& m) {
         return at::fft_rfft2(m({4, 4}));
       }},
      {"fft_rfftn",
       [](Make& m) {
         return at::fft_rfftn(m({4, 4}));
       }},
      {"nanquantile", [](Make& m) { return at::nanquantile(m({5}), m({2})); }},
      {"nanquantile.scalar", [](Make& m) { return at::nanquantile(m({5}), 0.3); }},
      {"polar", [](Make& m) { return at::polar(m({3}), m({3})); }},
      {"prod", [](Make& m) { return at::prod(m({3})); }},
      {"prod.dim_int",
       [](Make& m) {
         return at::prod(m({3, 2}), 0);
       }},
      {"quantile", [](Make& m) { return at::quantile(m({5}), m({2})); }},
      {"quantile.scalar", [](Make& m) { return at::quantile(m({5}), 0.3); }},
      {"stft",
       [](Make& m) {
         return at::stft(m({16}), 4, 2, 4, m({4}), false, true, /*return_complex=*/true);
       }},
      {"stft.center",
       [](Make& m) {
         return at::stft(m({16}), 4, 2, 4, m({4}), /*center=*/true, "reflect", false, true,
                         /*return_complex=*/true);
       }},
      {"view_as_complex",
       [](Make& m) {
         return at::view_as_complex(m({3, 2}));
       }},
      {"cat",
       [](Make& m) {
         return at::cat({m({2}), m({3})});
       }},
      {"index_copy",
       [](Make& m) {
         return at::index_copy(m({3, 2}), 0, longs({1}), m({1, 2}));
       }},
      {"stack",
       [](Make& m) {
         return at::stack({m({2}), m({2})});
       }},
  };
  return calls;
}

std::map<std::string, Call> all_calls() {
  std::map<std::string, Call> all;
  for (const auto* part :
       {&products(), &layers_and_losses(), &linear_algebra(), &transforms_and_joins()})
    all.insert(part->begin(), part->end());
  return all;
}

/// Some listed operations are deprecated and say so.
struct Deprecations : c10::WarningHandler {
  void process(const c10::Warning&) override {}
};

/// What the policy says the arguments become.
ScalarType expected_dtype(CastPolicy policy, ScalarType given, ScalarType region) {
  switch (policy) {
    case CastPolicy::kLowerPrecision:
      return region;
    case CastPolicy::kWidest:
      return given == torch::kFloat ? torch::kFloat : region;
    default:
      return torch::kFloat;
  }
}

Tensor result_of(const Call& call, ScalarType dtype, std::optional<ScalarType> first = {}) {
  Make make(dtype, first);
  return call(make);
}

std::optional<Tensor> if_supported(const std::function<Tensor()>& call) {
  try {
    return call();
  } catch (const c10::Error&) {
    return {};
  }
}

bool same(const Tensor& a, const Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) return false;
  if (a.is_complex())
    return same(torch::view_as_real(a.resolve_conj()), torch::view_as_real(b.resolve_conj()));
  return torch::allclose(a, b, 0, 0, /*equal_nan=*/true);
}

// mkldnn_rnn_layer is left out: torch::lstm calls it, with weights packed its own way.
TEST(AutocastOps, EveryListedOperationOfTheCpuIsTested) {
  const auto calls = all_calls();
  std::vector<std::string> untested;
  std::size_t listed = 0;
  for (const AutocastEntry& entry : autocast_policy(torch::kCPU)) {
    if (!entry.op.starts_with("aten::")) continue;
    ++listed;
    if (!calls.contains(entry.op.substr(6))) untested.push_back(entry.op);
  }
  EXPECT_THAT(untested, testing::ElementsAre("aten::mkldnn_rnn_layer"));
  EXPECT_EQ(calls.size() + 1, listed);
}

// The reference is the operation without autocast on arguments cast by hand.
TEST(AutocastOps, EveryOperationOfTheCpuDoesWhatItsPolicySays) {
  Deprecations ignored;
  const c10::WarningUtils::WarningHandlerGuard quiet(&ignored);
  const auto calls = all_calls();
  for (const AutocastEntry& entry : autocast_policy(torch::kCPU)) {
    const auto found = calls.find(entry.op.substr(6));
    if (found == calls.end()) continue;
    int compared = 0;
    for (const auto region : {torch::kBFloat16, torch::kHalf}) {
      for (const auto given : {torch::kBFloat16, torch::kHalf, torch::kFloat}) {
        const ScalarType computed = expected_dtype(entry.policy, given, region);
        const bool refused =
            entry.policy == CastPolicy::kWidest && given != region && given != torch::kFloat;
        const auto actual = if_supported([&] {
          const Autocast autocast(torch::kCPU, region);
          return result_of(found->second, given);
        });
        if (refused) {
          EXPECT_FALSE(actual) << entry.op;
          continue;
        }
        const auto expected = if_supported([&] {
          Make make(given, {}, computed);
          return found->second(make);
        });
        ASSERT_EQ(actual.has_value(), expected.has_value()) << entry.op << " " << given;
        if (!actual) continue;
        EXPECT_TRUE(same(*actual, *expected)) << entry.op << " " << given;
        ++compared;
      }
    }
    EXPECT_GE(compared, 3) << entry.op;
  }
}

TEST(AutocastOps, DoubleIsUntouchedByEveryOperation) {
  Deprecations ignored;
  const c10::WarningUtils::WarningHandlerGuard quiet(&ignored);
  for (const auto& [op, call] : all_calls()) {
    const auto plain = if_supported([&] { return result_of(call, torch::kDouble); });
    const Autocast autocast(torch::kCPU, torch::kBFloat16);
    const auto actual = if_supported([&] { return result_of(call, torch::kDouble); });
    ASSERT_EQ(actual.has_value(), plain.has_value()) << op;
    if (actual) {
      EXPECT_TRUE(same(*actual, *plain)) << op;
    }
  }
}

TEST(AutocastOps, IntegersAreUntouchedByEveryOperation) {
  Deprecations ignored;
  const c10::WarningUtils::WarningHandlerGuard quiet(&ignored);
  int supported = 0;
  for (const auto& [op, call] : all_calls()) {
    const auto plain = if_supported([&] { return result_of(call, torch::kLong); });
    const Autocast autocast(torch::kCPU, torch::kBFloat16);
    const auto actual = if_supported([&] { return result_of(call, torch::kLong); });
    ASSERT_EQ(actual.has_value(), plain.has_value()) << op;
    if (actual) {
      EXPECT_EQ(actual->scalar_type(), plain->scalar_type()) << op;
    }
    supported += actual.has_value();
  }
  EXPECT_GT(supported, 10);  // mm, cat, prod...
}

TEST(AutocastOps, WidestIsTheWidestOfMixedArguments) {
  for (const auto& [op, call] : transforms_and_joins()) {
    if (op != "cat" && op != "stack" && op != "index_copy") continue;
    const Autocast autocast(torch::kCPU, torch::kHalf);
    EXPECT_EQ(result_of(call, torch::kHalf).scalar_type(), torch::kHalf) << op;
    EXPECT_EQ(result_of(call, torch::kHalf, torch::kFloat).scalar_type(), torch::kFloat) << op;
    EXPECT_EQ(result_of(call, torch::kFloat, torch::kHalf).scalar_type(), torch::kFloat) << op;
    try {
      result_of(call, torch::kHalf, torch::kBFloat16);
      ADD_FAILURE() << op << " took fp16 and bf16";
    } catch (const c10::Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("Unexpected floating ScalarType in "
                                          "at::autocast::prioritize"));
    }
  }
}

TEST(AutocastOps, OutAndInPlaceFormsAreUntouched) {
  const Tensor x = torch::rand({3, 3});
  const Autocast autocast(torch::kCPU, torch::kBFloat16);
  Tensor out = torch::empty({3, 3});
  torch::mm_out(out, x, x);
  EXPECT_EQ(out.scalar_type(), torch::kFloat);
  EXPECT_FALSE(out.equal(torch::mm(x, x).to(torch::kFloat)));
  Tensor sum = torch::zeros({3, 3});
  sum.addmm_(x, x);
  EXPECT_EQ(sum.scalar_type(), torch::kFloat);
  EXPECT_TRUE(sum.equal(out));
  Tensor narrow = torch::empty({3, 3}, torch::kBFloat16);
  EXPECT_THROW(torch::mm_out(narrow, x, x), c10::Error);
  EXPECT_THROW(sum.addmm_(x.to(torch::kBFloat16), x), c10::Error);
}

TEST(AutocastOps, UnlistedOperationsRunInTheirInputsDtype) {
  const Tensor x = torch::rand({3, 3}).to(torch::kBFloat16);
  const Autocast autocast(torch::kCPU, torch::kHalf);
  for (const Tensor& y :
       {torch::softmax(x, -1), torch::layer_norm(x, {3}), x.exp(), x.sum(), torch::gelu(x), x + x})
    EXPECT_EQ(y.scalar_type(), torch::kBFloat16);
}

}  // namespace
}  // namespace halftone::autocast_ops_test
