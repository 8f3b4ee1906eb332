// SPDX-License-Identifier: Apache-2.0
// States in a file against states in memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <filesystem>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/optim/adamw.h"
#include "halftone/optim/adamw_buffers.h"
#include "halftone/system/file_memory.h"
#include "halftone/system/memory.h"
#include "support/adamw_layout.h"
#include "support/paths.h"
#include "support/temp_folder.h"

namespace halftone::adamw_offload_test {
namespace {

namespace fs = std::filesystem;
using test::Layout;
using test::TempFolder;
using testing::HasSubstr;

using Shapes = std::vector<std::vector<std::int64_t>>;

const Shapes kSmall = {{64, 64}, {3, 5}, {77, 61}, {5000}, {1, 1}};
// Three chunks, the last of which has no whole block of moments.
const Shapes kLarge = {{2, 300}, {2049, 4101}};

std::vector<Layout> layouts() {
  std::vector<Layout> all;
  for (const auto moments :
       {MomentStorage::kFloat32, MomentStorage::kBFloat16, MomentStorage::kInt8}) {
    for (const bool release : {false, true}) {
      AdamWOptions options{.lr = 0.01, .seed = 5, .moments = moments, .release_gradients = release};
      all.push_back({torch::kFloat, options});
      options.stochastic_rounding = true;
      for (const auto master :
           {MasterWeights::kNone, MasterWeights::kSplit16, MasterWeights::kSplit8}) {
        options.master = master;
        options.fp32_gradients = master == MasterWeights::kSplit8;
        all.push_back({torch::kBFloat16, options});
      }
    }
  }
  return all;
}

std::vector<torch::Tensor> parameters_of(const Shapes& shapes, torch::ScalarType dtype) {
  torch::manual_seed(9);
  std::vector<torch::Tensor> parameters;
  for (const auto& shape : shapes)
    parameters.push_back(torch::randn(shape).to(dtype).requires_grad_());
  return parameters;
}

// All but `without`, which takes no part.
void set_gradients(const std::vector<torch::Tensor>& parameters, std::int64_t step,
                   std::size_t without) {
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    torch::manual_seed(static_cast<std::uint64_t>(100 * step) + i);
    const torch::Tensor gradient = torch::randn(parameters[i].sizes());
    torch::Tensor& stored = parameters[i].mutable_grad();
    if (i == without)
      stored = torch::Tensor();
    else if (stored.defined())
      stored.copy_(gradient);
    else
      stored = gradient.to(parameters[i].grad_dtype().value_or(parameters[i].scalar_type()));
  }
}

void expect_same(const AdamW& a, const AdamW& b) {
  const StateDict left = a.state_dict(), right = b.state_dict();
  ASSERT_EQ(left.tensors.size(), right.tensors.size());
  for (const auto& [name, tensor] : left.tensors)
    EXPECT_TRUE(tensor.equal(right.tensor(name))) << name;
  EXPECT_EQ(left.values, right.values);
  for (std::size_t i = 0; i < a.parameter_names().size(); ++i)
    EXPECT_TRUE(a.parameter(i).equal(b.parameter(i))) << i;
}

AdamWOptions offloaded(AdamWOptions options, const fs::path& folder) {
  options.offload = folder;
  return options;
}

TEST(AdamWOffload, HasTheBitsOfMemoryInEveryLayout) {
  const TempFolder folder;
  const torch::Tensor factor = torch::tensor(0.5);
  for (const Layout& layout : layouts()) {
    SCOPED_TRACE(text(layout));
    const auto in_memory = parameters_of(kSmall, layout.dtype);
    const auto on_disk = parameters_of(kSmall, layout.dtype);
    AdamW a(in_memory, layout.options);
    AdamW b(on_disk, offloaded(layout.options, folder.path()));
    for (std::int64_t step = 0; step < 6; ++step) {
      const std::size_t without = step == 4 ? 2 : 99;
      const torch::Tensor found_inf = torch::tensor(step == 3 ? 1.0 : 0.0);
      for (AdamW* optimizer : {&a, &b}) {
        set_gradients(optimizer == &a ? in_memory : on_disk, step, without);
        if (step % 2 == 0) {
          optimizer->step_scaled(factor, found_inf);
        } else {
          for (std::size_t i = 0; i < kSmall.size(); ++i)
            optimizer->step_parameter(i, factor, found_inf);
          optimizer->finish_step(found_inf);
        }
        optimizer->zero_grad();
      }
      expect_same(a, b);
    }
    EXPECT_EQ(b.step_count(), 5);
    EXPECT_TRUE(fs::is_empty(folder.path()));
  }
}

TEST(AdamWOffload, HasTheBitsOfMemoryAcrossChunks) {
  const TempFolder folder{fs::path(test::kBuildDir)};
  const torch::Tensor none = torch::zeros({});
  for (const Layout& layout : layouts()) {
    const AdamWOptions& o = layout.options;
    const bool is_one = layout.dtype == torch::kFloat ? o.moments == MomentStorage::kFloat32
                                                      : o.master == MasterWeights::kSplit8 &&
                                                            o.moments != MomentStorage::kFloat32;
    if (!is_one) continue;
    SCOPED_TRACE(text(layout));
    ASSERT_GT(2049 * 4101, 2 * kOffloadChunk);
    const auto in_memory = parameters_of(kLarge, layout.dtype);
    const auto on_disk = parameters_of(kLarge, layout.dtype);
    AdamW a(in_memory, o);
    AdamW b(on_disk, offloaded(o, folder.path()));
    for (std::int64_t step = 0; step < 2; ++step) {
      for (AdamW* optimizer : {&a, &b}) {
        set_gradients(optimizer == &a ? in_memory : on_disk, step, 99);
        optimizer->step_scaled(torch::ones({}), none);
        optimizer->zero_grad();
      }
    }
    expect_same(a, b);
  }
}

TEST(AdamWOffload, StatesMoveBetweenMemoryAndDisk) {
  const TempFolder folder;
  for (const Layout& layout : layouts()) {
    SCOPED_TRACE(text(layout));
    const auto parameters = parameters_of(kSmall, layout.dtype);
    const auto copies = parameters_of(kSmall, layout.dtype);
    AdamW a(parameters, layout.options);
    AdamW b(copies, offloaded(layout.options, folder.path()));
    set_gradients(parameters, 1, 99);
    a.step();
    a.zero_grad();
    for (std::size_t i = 0; i < copies.size(); ++i) copies[i].detach().copy_(parameters[i]);
    b.load_state_dict(a.state_dict());
    expect_same(a, b);
    for (const auto* set : {&parameters, &copies}) set_gradients(*set, 2, 99);
    a.step();
    b.step();
    expect_same(a, b);
    a.load_state_dict(b.state_dict());
    expect_same(a, b);
    // From another layout, too.
    AdamWOptions other = layout.options;
    other.moments =
        other.moments == MomentStorage::kInt8 ? MomentStorage::kFloat32 : MomentStorage::kInt8;
    const auto others = parameters_of(kSmall, layout.dtype);
    const auto more = parameters_of(kSmall, layout.dtype);
    AdamW c(others, other);
    AdamW d(more, offloaded(other, folder.path()));
    c.load_state_dict(a.state_dict());
    d.load_state_dict(b.state_dict());
    expect_same(c, d);
  }
}

TEST(AdamWOffload, HandsThePagesOfItsStatesBack) {
  const TempFolder folder{fs::path(test::kBuildDir)};
  constexpr std::int64_t kElements = 4 * kOffloadChunk;
  for (const bool release : {false, true}) {
    torch::Tensor weight = torch::ones({kElements / 4096, 4096}).requires_grad_();
    AdamW optimizer({weight}, {.release_gradients = release, .offload = folder.path()});
    weight.mutable_grad() = torch::ones_like(weight);
    optimizer.step();  // moves the gradient into its buffer, where there is one
    if (!release) weight.grad().fill_(2);
    reset_peak_resident_bytes();
    const std::uint64_t before = resident_bytes();
    optimizer.step();
    const auto bytes = static_cast<std::uint64_t>(optimizer.bytes().disk);
    ASSERT_EQ(bytes, 8U * kElements);
    EXPECT_LT(resident_bytes(), before + bytes / 16);
    // A chunk of four is in memory at a time.
    EXPECT_LT(peak_resident_bytes(), before + bytes / 2);
    EXPECT_GT(optimizer.state_dict().tensor("group 0, parameter 0.exp_avg").min().item<float>(), 0);
  }
}

TEST(AdamWOffload, BytesSayWhatIsOnDisk) {
  const TempFolder folder;
  for (Layout layout : layouts()) {
    layout.options.offload = folder.path();
    std::vector<ParameterShape> shapes;
    for (const auto& shape : kSmall) shapes.push_back({shape, layout.dtype});
    const AdamW optimizer(parameters_of(kSmall, layout.dtype), layout.options);
    const OptimizerBytes bytes = adamw_bytes(shapes, layout.options);
    EXPECT_EQ(bytes, optimizer.bytes()) << text(layout);
    EXPECT_EQ(bytes.disk, bytes.moments + bytes.master);
    EXPECT_EQ(bytes.resident_states(), 0);
    layout.options.offload.clear();
    EXPECT_EQ(adamw_bytes(shapes, layout.options).total(), bytes.total());
    EXPECT_EQ(adamw_bytes(shapes, layout.options).resident_states(), bytes.disk);
    EXPECT_EQ(offload_chunk_bytes(shapes, layout.options), 0);
  }
}

TEST(AdamWOffload, AChunkHasTheBytesThatAreInMemoryAtOnce) {
  AdamWOptions options{
      .master = MasterWeights::kSplit8, .moments = MomentStorage::kInt8, .offload = "/somewhere"};
  const std::int64_t n = kOffloadChunk;
  const std::vector<ParameterShape> large = {{{8, n}, torch::kBFloat16}, {{64}, torch::kBFloat16}};
  EXPECT_EQ(offload_chunk_bytes(large, options), 3 * n + 2 * 4 * n / 256);
  const std::vector<ParameterShape> two(2, {{4, n / 8}, torch::kBFloat16});
  EXPECT_EQ(offload_chunk_bytes(two, options), 3 * n + 2 * 4 * n / 256);
  options.release_gradients = true;
  EXPECT_EQ(offload_chunk_bytes(two, options), 3 * n / 2 + 4 * n / 256);
}

TEST(AdamWOffload, AFolderThatCannotBeWrittenIsTheUsersMistake) {
  const TempFolder folder;
  const auto parameters = parameters_of(kSmall, torch::kFloat);
  EXPECT_THAT(test::message_of<UserError>(
                  [&] { AdamW optimizer(parameters, {.offload = folder / "missing"}); }),
              HasSubstr("missing"));
}

TEST(AdamWOffload, IsOnTheCpuOnly_CUDA) {
  const TempFolder folder;
  const torch::Tensor weight = torch::ones({4}, torch::kCUDA).requires_grad_();
  EXPECT_THROW(AdamW({weight}, {.offload = folder.path()}), c10::Error);
}

}  // namespace
}  // namespace halftone::adamw_offload_test
