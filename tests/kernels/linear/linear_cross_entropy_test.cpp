// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/linear/linear_cross_entropy.h"

#include <c10/util/ThreadLocalDebugInfo.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/utils.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>

#include "halftone/autocast/autocast.h"
#include "halftone/autocast/keep_fp32.h"
#include "halftone/kernels/fused/cross_entropy.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/linear.h"
#include "halftone/system/processor.h"
#include "support/compute_contexts.h"

namespace halftone::linear_cross_entropy_test {
namespace {

using torch::Tensor;

struct Head {
  Tensor hidden;   // (N, dim)
  Tensor weight;   // (V, dim)
  Tensor targets;  // (N)
  Tensor mask;     // (N)

  Head leaves() const {
    return {hidden.detach().clone().requires_grad_(), weight.detach().clone().requires_grad_(),
            targets, mask};
  }
};

Head random_head(std::int64_t rows, std::int64_t dim, std::int64_t classes) {
  Head head{torch::randn({rows, dim}), torch::randn({classes, dim}) * 0.5,
            torch::randint(classes, {rows}, torch::kLong), torch::rand({rows}) + 0.2};
  for (std::int64_t r = 1; r < rows; r += 4) {
    head.mask[r] = 0.0F;
    head.targets[r] = r % 8 == 1 ? -7 : classes + 3;
  }
  return head;
}

struct Result {
  Tensor loss;
  Tensor d_hidden;
  Tensor d_weight;
};

using Loss = std::function<Tensor(const Head&)>;

/// With an incoming gradient of `factor`.
Result result_of(const Head& head, const Loss& loss, double factor = 1.0) {
  const Head leaves = head.leaves();
  const Tensor value = loss(leaves);
  (value * factor).backward();
  return {value.detach(), leaves.hidden.grad(), leaves.weight.grad()};
}

Loss chunked(std::int64_t chunk_rows = 0) {
  return [chunk_rows](const Head& h) {
    return linear_cross_entropy(h.hidden, h.weight, h.targets, h.mask, chunk_rows);
  };
}

Tensor composed(const Head& h) {
  return masked_mean_cross_entropy(halftone::linear(h.hidden, h.weight), h.targets, h.mask);
}

Result in_double(const Head& head, double factor = 1.0) {
  Head wide = head;
  wide.hidden = head.hidden.to(torch::kDouble);
  wide.weight = head.weight.to(torch::kDouble);
  return result_of(
      wide,
      [](const Head& h) {
        return masked_mean_cross_entropy(h.hidden.matmul(h.weight.t()), h.targets, h.mask);
      },
      factor);
}

double distance(const Tensor& actual, const Tensor& expected) {
  const Tensor wide = expected.to(torch::kDouble);
  const double norm = wide.norm().item<double>();
  return (actual.to(torch::kDouble) - wide).norm().item<double>() / (norm > 0.0 ? norm : 1.0);
}

void expect_near(const Result& actual, const Result& expected, double error) {
  EXPECT_NEAR(actual.loss.item<double>(), expected.loss.item<double>(),
              error * std::abs(expected.loss.item<double>()) + 1e-6);
  EXPECT_LT(distance(actual.d_hidden, expected.d_hidden), error);
  EXPECT_LT(distance(actual.d_weight, expected.d_weight), error);
}

/// Puts a choice of paths in force for a scope.
class Paths {
 public:
  explicit Paths(std::string_view text) : before_(cpu_gemm_config()) {
    set_cpu_gemm_config(parse_cpu_gemm_config(text, before_));
  }
  ~Paths() { set_cpu_gemm_config(before_); }
  Paths(const Paths&) = delete;
  Paths& operator=(const Paths&) = delete;

 private:
  CpuGemmConfig before_;
};

TEST(LinearCrossEntropy, EqualsTheDefinitionForEveryCut) {
  torch::manual_seed(1);
  for (const std::int64_t classes : {1, 7, 129}) {
    for (const std::int64_t rows : {1, 5, 16, 17, 40}) {
      const Head head = random_head(rows, 9, classes);
      const Result exact = in_double(head, 3.0);
      for (const std::int64_t chunk_rows : {1, 4, 16, 39, 64, 0}) {
        if (classes == 1) {  // a certain prediction: loss and gradients are 0
          const Result made = result_of(head, chunked(chunk_rows));
          EXPECT_EQ(made.loss.item<float>(), 0.0F);
          EXPECT_EQ(made.d_weight.abs().max().item<float>(), 0.0F);
        } else {
          expect_near(result_of(head, chunked(chunk_rows), 3.0), exact, 2e-6);
        }
      }
    }
  }
  const Head wide = random_head(3, 4, 6401);
  expect_near(result_of(wide, chunked(2)), in_double(wide), 2e-6);
}

TEST(LinearCrossEntropy, HandlesALargeVocabulary) {
  torch::manual_seed(2);
  const Head head = random_head(5, 8, 150000);
  expect_near(result_of(head, chunked(2)), in_double(head), 2e-5);  // sums of 150,000
  const ComputeScope region(test::computing_in(ComputeType::kInt8));
  expect_near(result_of(head, chunked(2)), in_double(head), 0.1);
}

TEST(LinearCrossEntropy, IsTheLossAloneWithoutGradients) {
  torch::manual_seed(3);
  const Head head = random_head(21, 8, 33);
  const Tensor with = chunked(8)(head.leaves());
  const torch::NoGradGuard no_grad;
  const Tensor without = chunked(8)(head.leaves());
  EXPECT_TRUE(with.requires_grad());
  EXPECT_FALSE(without.requires_grad());
  EXPECT_TRUE(without.equal(with));
}

TEST(LinearCrossEntropy, GivesOnlyTheGradientsThatAreWanted) {
  torch::manual_seed(4);
  const Head head = random_head(21, 8, 33);
  const Result both = result_of(head, chunked(8));
  Head one = head.leaves();
  one.weight.requires_grad_(false);
  chunked(8)(one).backward();
  EXPECT_TRUE(one.hidden.grad().equal(both.d_hidden));
  EXPECT_FALSE(one.weight.grad().defined());
  one = head.leaves();
  one.hidden.requires_grad_(false);
  chunked(8)(one).backward();
  EXPECT_TRUE(one.weight.grad().equal(both.d_weight));
}

TEST(LinearCrossEntropy, NothingCountedIsZeroWithZeroGradients) {
  for (const std::int64_t rows : {0, 1, 17}) {
    Head head = random_head(rows, 4, 5);
    head.mask = torch::zeros({rows}, torch::kLong);
    const Result made = result_of(head, chunked(16));
    EXPECT_EQ(made.loss.item<float>(), 0.0F);
    EXPECT_TRUE(made.d_hidden.equal(torch::zeros({rows, 4})));
    EXPECT_TRUE(made.d_weight.equal(torch::zeros({5, 4})));
  }
}

// Where the composition rounds the same things, in fp32 sums of another order: of 16-bit gradients
// the chunked ones lie nearer to the exact result, so they are held to that.
TEST(LinearCrossEntropy, KeepsTheDtypesOfTheCompositionUnderAutocast) {
  torch::manual_seed(5);
  const Head head = random_head(70, 32, 257);
  for (const char* way : {"upcast", "native", "upcast,bf16.forward=native,fp16.forward=native",
                          "upcast,bf16.weight_gradient=native,fp16.weight_gradient=native"}) {
    const Paths paths(way);
    for (const auto dtype : {torch::kBFloat16, torch::kHalf}) {
      const double roundoff = dtype == torch::kHalf ? 0x1p-11 : 0x1p-8;
      const double scale = dtype == torch::kHalf ? 65536.0 : 1.0;
      const auto run = [&](const Loss& loss) {
        return result_of(
            head,
            [&](const Head& h) {
              const Autocast autocast(torch::kCPU, dtype);
              return loss(h);
            },
            scale);
      };
      const Result made = run(chunked(32));
      const Result reference = run(composed);
      const Result exact = in_double(head, scale);
      EXPECT_EQ(made.loss.scalar_type(), torch::kFloat);
      EXPECT_EQ(made.d_weight.scalar_type(), torch::kFloat);
      // The same logits, so nearly the same loss.
      EXPECT_NEAR(made.loss.item<double>(), reference.loss.item<double>(), 1e-5) << way;
      for (const auto& [chunk, whole, wide] :
           {std::tuple(made.d_hidden, reference.d_hidden, exact.d_hidden),
            std::tuple(made.d_weight, reference.d_weight, exact.d_weight)}) {
        EXPECT_LT(distance(chunk, wide), 1.2 * distance(whole, wide) + 0.1 * roundoff) << way;
        EXPECT_LT(distance(chunk, wide), 4 * roundoff) << way;
      }
    }
  }
}

TEST(LinearCrossEntropy, TakesSixteenBitParameters) {
  torch::manual_seed(6);
  for (const auto dtype : {torch::kBFloat16, torch::kHalf}) {
    Head head = random_head(40, 16, 65);
    head.hidden = head.hidden.to(dtype);
    head.weight = head.weight.to(dtype);
    const Result made = result_of(head, chunked(16), 256.0);
    EXPECT_EQ(made.loss.scalar_type(), torch::kFloat);
    EXPECT_EQ(made.d_hidden.scalar_type(), dtype);
    EXPECT_EQ(made.d_weight.scalar_type(), dtype);
    expect_near(made, in_double(head, 256.0), dtype == torch::kHalf ? 2e-3 : 1.5e-2);
  }
}

TEST(LinearCrossEntropy, QuantisesLikeInt8Linear) {
  torch::manual_seed(7);
  const Head head = random_head(96, 64, 300);
  const auto run = [&](const Loss& loss) {
    return result_of(head, [&](const Head& h) {
      const ComputeScope region(test::computing_in(ComputeType::kInt8, 3, 5));
      return loss(h);
    });
  };
  const Result whole = run(composed);
  const Result made = run(chunked(32));
  const Result exact = in_double(head);
  EXPECT_NEAR(made.loss.item<double>(), whole.loss.item<double>(), 1e-5);  // the same logits
  EXPECT_LT(distance(made.d_hidden, exact.d_hidden),
            1.1 * distance(whole.d_hidden, exact.d_hidden));
  EXPECT_LT(distance(made.d_weight, exact.d_weight),
            1.1 * distance(whole.d_weight, exact.d_weight));
  EXPECT_TRUE(run(chunked(32)).d_weight.equal(made.d_weight));
  EXPECT_FALSE(result_of(head, [&](const Head& h) {
                 const ComputeScope region(test::computing_in(ComputeType::kInt8, 3, 6));
                 return chunked(32)(h);
               }).d_weight.equal(made.d_weight));
}

// One chunk draws no more than one layer: the streams of the layers around are what they were.
TEST(LinearCrossEntropy, TakesOneInt8Stream) {
  const Head head = random_head(40, 8, 9);
  const ComputeScope region(test::computing_in(ComputeType::kInt8));
  chunked(8)(head);
  const std::uint64_t second = compute_context().streams.next();
  const RoundingStreams streams(0, 0);
  streams.next();
  EXPECT_EQ(streams.next(), second);
}

TEST(LinearCrossEntropy, KeepsAMarkedWeightInFp32) {
  torch::manual_seed(8);
  const Head head = random_head(24, 16, 40);
  const auto run = [&](bool mark, bool int8) {
    return result_of(head, [&](const Head& h) {
      if (mark) mark_keep_fp32(h.weight);
      const Autocast autocast(torch::kCPU, torch::kBFloat16, !int8);
      const ComputeScope region(
          test::computing_in(int8 ? ComputeType::kInt8 : ComputeType::kFloat32));
      return chunked(16)(h);
    });
  };
  const Result fp32 = result_of(head, chunked(16));
  for (const bool int8 : {false, true}) {
    EXPECT_TRUE(run(true, int8).d_weight.equal(fp32.d_weight));
    EXPECT_TRUE(run(true, int8).loss.equal(fp32.loss));
    EXPECT_FALSE(run(false, int8).d_weight.equal(fp32.d_weight));
  }
}

// A probability of 2^-30 is nothing in fp16 unless the loss scale lifts it; here it is seen at any.
TEST(LinearCrossEntropy, Fp16FlushesLessThanTheComposition) {
  Head head{torch::ones({4, 1}), torch::zeros({3, 1}), torch::zeros({4}, torch::kLong),
            torch::ones({4})};
  head.weight[2] = -20.0F;
  for (const char* way : {"fp16=upcast", "fp16=native"}) {
    const Paths paths(way);
    const Autocast autocast(torch::kCPU, torch::kHalf);
    const double expected = std::exp(-20.0) / 2;
    EXPECT_NEAR(result_of(head, chunked()).d_weight[2].item<double>(), expected, 0.03 * expected)
        << way;  // the native way leaves it few digits
    EXPECT_EQ(result_of(head, composed).d_weight[2].item<double>(), 0.0) << way;
  }
}

// Large activations and many rows of one sign: the largest sums that fp16 meets on the way.
TEST(LinearCrossEntropy, Fp16DoesNotOverflowOnItsOwn) {
  Head head{torch::full({512, 4}, 900.0F), torch::zeros({3, 4}), torch::zeros({512}, torch::kLong),
            torch::ones({512})};
  for (const char* way : {"fp16=upcast", "fp16=native"}) {
    const Paths paths(way);
    const Autocast autocast(torch::kCPU, torch::kHalf);
    const Result made = result_of(head, chunked(512));
    EXPECT_NEAR(made.d_weight[0][0].item<double>(), -600.0, 0.5) << way;
    EXPECT_NEAR(made.d_weight[2][3].item<double>(), 300.0, 0.3) << way;
  }
}

TEST(LinearCrossEntropy, AnIncomingOverflowShowsInTheGradients) {
  torch::manual_seed(9);
  const Head head = random_head(9, 4, 5);
  const Autocast autocast(torch::kCPU, torch::kHalf);
  const Result made = result_of(head, chunked(4), std::numeric_limits<double>::infinity());
  EXPECT_FALSE(made.d_hidden.isfinite().all().item<bool>());
  EXPECT_FALSE(made.d_weight.isfinite().all().item<bool>());
}

TEST(LinearCrossEntropy, InfAndNanReachLossAndGradients) {
  torch::manual_seed(10);
  for (const float bad : {std::numeric_limits<float>::infinity(), NAN}) {
    for (const bool int8 : {false, true}) {
      Head head = random_head(20, 4, 5);
      head.hidden[6][1] = bad;
      const auto run = [&](const Loss& loss) {
        return result_of(head, [&](const Head& h) {
          const ComputeScope region(
              test::computing_in(int8 ? ComputeType::kInt8 : ComputeType::kFloat32));
          return loss(h);
        });
      };
      const Result made = run(chunked(8));
      EXPECT_FALSE(made.loss.isfinite().item<bool>());
      EXPECT_FALSE(made.d_hidden[6].isfinite().any().item<bool>());
      EXPECT_TRUE(made.d_hidden[0].isfinite().all().item<bool>());
      const Result whole = run(composed);
      EXPECT_TRUE(made.d_weight.isfinite().equal(whole.d_weight.isfinite()));
    }
  }
}

TEST(LinearCrossEntropy, HasTheSameBitsForAnyNumberOfThreadsWhereProductsDo) {
  torch::manual_seed(11);
  const Head head = random_head(100, 32, 401);
  const int before = torch::get_num_threads();
  const auto run = [&](int threads) {
    torch::set_num_threads(threads);
    return result_of(head, [](const Head& h) {
      const ComputeScope region(test::computing_in(ComputeType::kInt8));  // whose sums are exact
      return chunked(48)(h);
    });
  };
  const Result one = run(1);
  const Result two = run(2);
  torch::set_num_threads(before);
  EXPECT_TRUE(two.loss.equal(one.loss));
  EXPECT_TRUE(two.d_hidden.equal(one.d_hidden));
  EXPECT_TRUE(two.d_weight.equal(one.d_weight));
}

TEST(LinearCrossEntropy, CanBeDifferentiatedAgainWhereTheGraphIsKept) {
  torch::manual_seed(12);
  const Head leaves = random_head(20, 4, 5).leaves();
  const Tensor loss = chunked(8)(leaves);
  const auto gradients = [&](double factor) {
    return torch::autograd::grad({loss}, {leaves.hidden, leaves.weight}, {torch::tensor(factor)},
                                 /*retain_graph=*/true);
  };
  const auto once = gradients(1.0);
  once[1].zero_();  // whoever has them may write to them
  const auto twice = gradients(2.0);
  const auto again = gradients(1.0);
  EXPECT_TRUE(twice[0].equal(again[0] * 2));
  EXPECT_TRUE(twice[1].equal(again[1] * 2));
  EXPECT_GT(again[1].abs().max().item<float>(), 0.0F);
  loss.backward();
  EXPECT_TRUE(leaves.weight.grad().equal(again[1]));
}

TEST(LinearCrossEntropy, GradientsAreTheSlopesOfTheLoss) {
  torch::manual_seed(13);
  const Head head = random_head(6, 3, 4);
  const Result made = result_of(head, chunked(4));
  constexpr double kStep = 1e-6;
  const auto loss_at = [&](bool of_weight, std::int64_t i, double step) {
    Tensor hidden = head.hidden.to(torch::kDouble);
    Tensor weight = head.weight.to(torch::kDouble);
    (of_weight ? weight : hidden).view(-1)[i] += step;
    return linear_cross_entropy(hidden, weight, head.targets, head.mask).item<double>();
  };
  for (const bool of_weight : {false, true}) {
    const Tensor gradient = (of_weight ? made.d_weight : made.d_hidden).view(-1);
    for (std::int64_t i = 0; i < gradient.numel(); ++i) {
      const double slope =
          (loss_at(of_weight, i, kStep) - loss_at(of_weight, i, -kStep)) / (2 * kStep);
      EXPECT_NEAR(gradient[i].item<double>(), slope, 1e-6);
    }
  }
}

TEST(LinearCrossEntropy, TakesTheDefinitionInFp64) {
  torch::manual_seed(14);
  Head head = random_head(6, 3, 4);
  head.hidden = head.hidden.to(torch::kDouble);
  head.weight = head.weight.to(torch::kDouble);
  const Head leaves = head.leaves();
  const Tensor loss = chunked()(leaves);
  EXPECT_EQ(loss.scalar_type(), torch::kDouble);
  const auto first = torch::autograd::grad({loss}, {leaves.weight}, {}, true, true);
  EXPECT_NO_THROW(first[0].square().sum().backward());  // a second derivative
}

TEST(LinearCrossEntropy, RefusesWhatItCannotDo) {
  const Head head = random_head(6, 3, 4);
  Head wrong = head;
  wrong.targets = torch::full({6}, 4, torch::kLong);
  EXPECT_THROW(chunked()(wrong), c10::Error);
  wrong = head;
  wrong.mask = torch::ones({5});
  EXPECT_THROW(chunked()(wrong), c10::Error);
  wrong = head;
  wrong.weight = torch::zeros({4, 2});
  EXPECT_THROW(chunked()(wrong), c10::Error);
  wrong = head;
  wrong.weight = head.weight.to(torch::kHalf);
  EXPECT_THROW(chunked()(wrong), c10::Error);
  const Head leaves = head.leaves();
  EXPECT_THROW(torch::autograd::grad({chunked()(leaves)}, {leaves.weight}, {}, true,
                                     /*create_graph=*/true),
               c10::Error);
}

/// The largest piece of memory that tensors take in this thread.
struct LargestAllocation : c10::MemoryReportingInfoBase {
  void reportMemoryUsage(void*, std::int64_t size, std::size_t, std::size_t, c10::Device) override {
    largest = std::max(largest, size);
  }
  bool memoryProfilingEnabled() const override { return true; }
  std::int64_t largest = 0;
};

std::int64_t largest_allocation(const std::function<void()>& work) {
  const auto meter = std::make_shared<LargestAllocation>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, meter);
  work();
  return meter->largest;
}

TEST(LinearCrossEntropy, NeverHoldsAllLogits) {
  constexpr std::int64_t kRows = 400, kClasses = 5000, kDim = 8, kChunk = 16;
  // For AMX oneDNN packs the weights, whose 8 columns take the room of 64 then.
  const bool packs = this_processor().features.amx_bf16;
  const std::int64_t packed = packs ? kClasses * 64 * 2 * 11 / 10 : 0;
  const Head head = random_head(kRows, kDim, kClasses);
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf, torch::kChar}) {
    const auto run = [&](const Loss& loss) {
      const Autocast autocast(torch::kCPU, dtype == torch::kHalf ? torch::kHalf : torch::kBFloat16,
                              dtype == torch::kBFloat16 || dtype == torch::kHalf);
      const ComputeScope region(
          test::computing_in(dtype == torch::kChar ? ComputeType::kInt8 : ComputeType::kFloat32));
      const Head leaves = head.leaves();
      loss(leaves).backward();
      const torch::NoGradGuard no_grad;
      loss(leaves);
    };
    const auto all = [&] { run(composed); };
    const auto parts = [&] { run(chunked(kChunk)); };
    EXPECT_GE(largest_allocation(all), kRows * kClasses * 2);
    EXPECT_LE(largest_allocation(parts), std::max(kChunk * kClasses * 4, packed));
  }
}

TEST(LossChunkRows, AreEvenAndFew) {
  for (const std::int64_t rows : {0, 1, 16, 1000, 1024, 8192}) {
    for (const std::int64_t classes : {1, 6400, 32000, 150000}) {
      const std::int64_t chunk = loss_chunk_rows(rows, classes, 512);
      EXPECT_GE(chunk, 16);
      EXPECT_LE(chunk * classes, std::max<std::int64_t>(144 * classes, (1 << 22) + 16 * classes));
      // No chunk is much smaller than the others.
      const std::int64_t last = rows % chunk == 0 ? chunk : rows % chunk;
      EXPECT_TRUE(rows < chunk || 2 * last >= chunk) << rows << " " << classes;
    }
  }
}

}  // namespace
}  // namespace halftone::linear_cross_entropy_test
