// SPDX-License-Identifier: Apache-2.0
// What saving and loading take beside the states themselves.
#include <gtest/gtest.h>
#include <torch/nn/module.h>
#include <torch/utils.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "halftone/io/safetensors.h"
#include "halftone/models/parameter_names.h"
#include "halftone/optim/adamw.h"
#include "halftone/pretrain/trained_model.h"
#include "halftone/run/checkpoint.h"
#include "halftone/system/file_memory.h"
#include "halftone/system/memory.h"
#include "halftone/train/network_state.h"
#include "support/paths.h"
#include "support/temp_folder.h"

namespace halftone::checkpoint_memory_test {
namespace {

namespace fs = std::filesystem;
using test::TempFolder;

constexpr std::int64_t kTensors = 32;
constexpr std::int64_t kNumbers = 1 << 20;
constexpr std::int64_t kStates = 3 * kTensors * kNumbers * 4;  // bytes: weights and two moments

struct Network : torch::nn::Module {
  explicit Network(double value) {
    for (std::int64_t i = 0; i < kTensors; ++i)
      register_parameter("w" + std::to_string(i),
                         torch::full({1024, kNumbers / 1024}, value + static_cast<double>(i)));
  }
};

std::vector<std::pair<std::string, torch::Tensor>> named_parameters_of(torch::nn::Module& module) {
  std::vector<std::pair<std::string, torch::Tensor>> named;
  for (const auto& item : module.named_parameters()) named.emplace_back(item.key(), item.value());
  return named;
}

void touch(AdamW& optimizer, double value) {
  for (const auto& [name, tensor] : optimizer.state_dict().tensors)
    tensor.fill_(value + static_cast<double>(std::hash<std::string>{}(name) % 100));
}

/// The most that `work` takes beyond what is resident before.
template <class Work>
std::int64_t extra_bytes(const Work& work) {
  release_free_memory();
  reset_peak_resident_bytes();
  const std::uint64_t before = resident_bytes();
  work();
  return static_cast<std::int64_t>(peak_resident_bytes()) - static_cast<std::int64_t>(before);
}

/// The same of work that is done again where it is not below `limit`: the system takes idle pages
/// away and gives them back, which adds to a measurement, and takes nothing from it.
template <class Work>
std::int64_t least_extra_bytes(std::int64_t limit, const Work& work) {
  std::int64_t least = extra_bytes(work);
  for (int more = 0; more < 2 && least >= limit; ++more) least = std::min(least, extra_bytes(work));
  return least;
}

void expect_same(const StateDict& a, const StateDict& b) {
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) EXPECT_TRUE(tensor.equal(b.tensor(name))) << name;
}

TEST(CheckpointMemory, SavingAndLoadingKeepOneTensorAtATime) {
  const TempFolder run{fs::path(test::kBuildDir)};
  Network saved(1);
  AdamW saved_optimizer(named_parameters_of(saved), {});
  touch(saved_optimizer, 1);
  const std::int64_t saving = least_extra_bytes(kStates / 16, [&] {
    save_checkpoint(
        run.path(),
        {.model = network_state(saved), .optimizer = saved_optimizer.state_dict(), .step = 1});
  });
  EXPECT_LT(saving, kStates / 16);

  Network loaded(500);
  AdamW loaded_optimizer(named_parameters_of(loaded), {});
  touch(loaded_optimizer, 500);
  const std::int64_t loading = least_extra_bytes(kStates / 16, [&] {
    const Checkpoint checkpoint = load_latest_checkpoint(run.path());
    load_network_state(loaded, checkpoint.model, "the checkpoint");
    loaded_optimizer.load_state_dict(checkpoint.optimizer);
  });
  EXPECT_LT(loading, kStates / 16);
  expect_same(network_state(loaded), network_state(saved));
  expect_same(loaded_optimizer.state_dict(), saved_optimizer.state_dict());
}

TEST(CheckpointMemory, OffloadedStatesPassThroughOnTheirWay) {
  const TempFolder run{fs::path(test::kBuildDir)};
  const AdamWOptions offloaded{.offload = run.path()};
  Network network(1);
  AdamW optimizer(named_parameters_of(network), offloaded);
  touch(optimizer, 1);
  StateDict expected = optimizer.state_dict();
  for (auto& [name, tensor] : expected.tensors) tensor = tensor.max();
  for (const std::int64_t step : {1, 2}) {
    for (const auto& [name, tensor] : optimizer.state_dict().tensors) release_pages(tensor);
    const std::int64_t extra = extra_bytes([&] {
      if (step == 1)
        save_checkpoint(run.path(), {.optimizer = optimizer.state_dict(), .step = 1});
      else
        optimizer.load_state_dict(load_latest_checkpoint(run.path()).optimizer);
    });
    EXPECT_LT(extra, kStates / 8) << step;
    if (step == 1) touch(optimizer, 700);
  }
  for (const auto& [name, tensor] : optimizer.state_dict().tensors)
    EXPECT_TRUE(tensor.eq(expected.tensor(name)).all().item<bool>()) << name;
}

TEST(CheckpointMemory, FilesOfOthersAreReadATensorAtATime) {
  const TempFolder folder{fs::path(test::kBuildDir)};
  ModelConfig config = preset_config("minimind-26m");
  config.vocab_size = 6400;
  const CausalLM source(config);
  save_safetensors(folder / "model.safetensors", parameters_of(source).tensors);
  const auto bytes = static_cast<std::int64_t>(fs::file_size(folder / "model.safetensors"));
  CausalLM target(config);
  const std::int64_t loading =
      extra_bytes([&] { initialize_from(target, folder / "model.safetensors"); });
  EXPECT_LT(loading, bytes / 2);
  expect_same(parameters_of(target), parameters_of(source));
}

}  // namespace
}  // namespace halftone::checkpoint_memory_test
