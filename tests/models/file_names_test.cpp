// SPDX-License-Identifier: Apache-2.0
#include "halftone/models/file_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "halftone/core/error.h"
#include "support/message_of.h"

namespace halftone::file_names_test {
namespace {

using test::message_of;
using testing::AllOf;
using testing::HasSubstr;

StateDict file_of(const std::vector<std::string>& names) {
  StateDict file;
  for (const std::string& name : names)
    file.tensors[name] = torch::full({1}, static_cast<double>(file.tensors.size()));
  return file;
}

std::vector<std::string> bare_names(const std::vector<std::string>& names) {
  std::vector<std::string> bare;
  for (const auto& [name, tensor] : without_wrappers(file_of(names), "a.pth").tensors)
    bare.push_back(name);
  return bare;
}

TEST(WithoutWrappers, TakesThemOffWhereverTheyStand) {
  for (const char* name :
       {"layers.0.w", "module.layers.0.w", "_orig_mod.layers.0.w", "base_model.model.layers.0.w",
        "module._orig_mod.layers.0.w", "_orig_mod.module.layers.0.w", "module.module.layers.0.w",
        "_orig_mod.base_model.model._orig_mod.module.layers.0.w", "layers.0._orig_mod.w",
        "layers._orig_mod.0._orig_mod._orig_mod.w",
        "_fsdp_wrapped_module.layers.0._checkpoint_wrapped_module.w"})
    EXPECT_THAT(bare_names({name}), testing::ElementsAre("layers.0.w")) << name;
}

TEST(WithoutWrappers, LeavesOtherNames) {
  const std::vector<std::string> names = {"a_orig_mod.w",    "base_model.w",
                                          "layers.module.w", "model.layers.0.w",
                                          "modules.w",       "my_orig_mod.a._orig_mod",
                                          "q_proj.bias",     "self_attn.mask_w"};
  EXPECT_EQ(bare_names(names), names);
}

TEST(WithoutWrappers, LeavesOutBuffersThatEveryProgramComputes) {
  EXPECT_THAT(
      bare_names({"freqs_cos", "freqs_sin", "pos_cis", "module.model.freqs_cos",
                  "model.rotary_emb.inv_freq", "model.layers.0.self_attn.rotary_emb.inv_freq",
                  "layers.0.attention.mask", "h.0.attn.bias", "h.0.attn.masked_bias", "norm.weight",
                  "h.0.self_attn.bias", "unmask", "inv_freq"}),
      testing::ElementsAre("h.0.self_attn.bias", "inv_freq", "norm.weight", "unmask"));
}

TEST(WithoutWrappers, KeepsTensorsAndWhatIsLazy) {
  StateDict file = file_of({"module.a", "module.b"});
  file.values["epoch"] = std::int64_t{3};
  file.tensors["module.a"] = torch::empty({2}, torch::kMeta);
  int reads = 0;
  file.lazy["module.a"] = [&reads] {
    ++reads;
    return torch::ones({2});
  };
  const StateDict bare = without_wrappers(file, "a.pth");
  EXPECT_EQ(reads, 0);
  EXPECT_TRUE(bare.meta("a").is_meta());
  EXPECT_TRUE(bare.tensor("a").equal(torch::ones({2})));
  EXPECT_TRUE(bare.tensor("b").is_same(file.tensors.at("module.b")));
  EXPECT_EQ(bare.get<std::int64_t>("epoch"), 3);
}

TEST(WithoutWrappers, RefusesOneNameForTwo) {
  EXPECT_THAT(message_of<UserError>([] {
                bare_names({"module.a", "a"});
              }),
              AllOf(HasSubstr("a.pth: 'module.a'"), HasSubstr("both 'a'")));
}

TEST(WithoutWrappers, RefusesScalesOfQuantizedWeights) {
  for (const char* name : {"model.layers.0.mlp.up_proj.weight_scale_inv", "a.weight_scale"})
    EXPECT_THAT(message_of<UserError>([&] { bare_names({name}); }),
                AllOf(HasSubstr(name), HasSubstr("convert the model to bf16")));
}

}  // namespace
}  // namespace halftone::file_names_test
