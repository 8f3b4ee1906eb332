// SPDX-License-Identifier: Apache-2.0
#include "halftone/io/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "halftone/core/error.h"
#include "halftone/io/safetensors.h"
#include "support/paths.h"
#include "support/temp_folder.h"
#include "support/torch_file.h"

namespace halftone::weights_test {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::TempFolder;
using test::write_text;
using testing::AllOf;
using testing::HasSubstr;

/// A file of torch.save with the vector [value, value] as `name`.
std::string torch_file_of(const std::string& name, float value) {
  return test::torch_file_of({{name, torch::full({2}, value)}});
}

class OpenWeights : public testing::Test {
 protected:
  void save(const std::string& name, const std::map<std::string, torch::Tensor>& tensors) const {
    save_safetensors(folder_ / name, tensors);
  }
  void save_index(const std::string& name, const std::string& map) const {
    write_text(folder_ / name, R"({"metadata": {"total_size": 16}, "weight_map": {)" + map + "}}");
  }
  StateDict open() const { return open_weights(folder_.path()); }
  std::string refusal() const {
    const std::string message = message_of<UserError>([&] { open(); });
    EXPECT_EQ(message.find('\n'), std::string::npos);
    return message;
  }
  /// An index of two shards, as Hugging Face writes it.
  void save_shards() const {
    save("one.safetensors", {{"a", torch::full({2}, 1.0F)}, {"b", torch::full({2}, 2.0F)}});
    save("two.safetensors", {{"c", torch::full({2}, 3.0F)}});
    save_index("model.safetensors.index.json",
               R"("a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors")");
  }

  TempFolder folder_;
};

TEST_F(OpenWeights, TakesAFileByWhatItIs) {
  save("a.safetensors", {{"w", torch::ones({2})}});
  write_text(folder_ / "a.pth", torch_file_of("w", 2));
  write_text(folder_ / "a.pt", torch_file_of("w", 3));
  write_text(folder_ / "weights", torch_file_of("w", 4));
  save("plain", {{"w", torch::full({2}, 5.0F)}});
  float expected = 1;
  for (const char* name : {"a.safetensors", "a.pth", "a.pt", "weights", "plain"}) {
    const StateDict state = open_weights(folder_ / name);
    EXPECT_TRUE(state.meta("w").is_meta()) << "it is read when it is asked for";
    EXPECT_TRUE(state.tensor("w").equal(torch::full({2}, expected++))) << name;
    EXPECT_EQ(weights_file(folder_ / name), folder_ / name);
  }
  EXPECT_THAT(message_of<UserError>([&] { open_weights(folder_ / "none.pth"); }),
              HasSubstr("cannot read"));
  EXPECT_THAT(message_of<UserError>([&] { open_weights(folder_ / "none"); }),
              HasSubstr("cannot read"));
}

TEST_F(OpenWeights, TakesTheFirstKindOfAFolder) {
  EXPECT_THAT(refusal(),
              HasSubstr("has no weights: expected model.safetensors or pytorch_model.bin"));
  write_text(folder_ / "shard.bin", torch_file_of("w", 1));
  save_index("pytorch_model.bin.index.json", R"("w": "shard.bin")");
  EXPECT_TRUE(open().tensor("w").equal(torch::full({2}, 1.0F)));
  write_text(folder_ / "pytorch_model.bin", torch_file_of("w", 2));
  EXPECT_TRUE(open().tensor("w").equal(torch::full({2}, 2.0F)));
  save("shard.safetensors", {{"w", torch::full({2}, 3.0F)}});
  save_index("model.safetensors.index.json", R"("w": "shard.safetensors")");
  EXPECT_TRUE(open().tensor("w").equal(torch::full({2}, 3.0F)));
  save("model.safetensors", {{"w", torch::full({2}, 4.0F)}});
  EXPECT_TRUE(open().tensor("w").equal(torch::full({2}, 4.0F)));
  EXPECT_EQ(weights_file(folder_.path()), folder_ / "model.safetensors");
}

TEST_F(OpenWeights, JoinsShards) {
  save_shards();
  for (const fs::path& path : {folder_.path(), folder_ / "model.safetensors.index.json"}) {
    const StateDict state = open_weights(path);
    EXPECT_EQ(state.tensors.size(), 3U);
    EXPECT_EQ(state.lazy.size(), 3U);
    EXPECT_TRUE(state.tensor("b").equal(torch::full({2}, 2.0F)));
    EXPECT_TRUE(state.tensor("c").equal(torch::full({2}, 3.0F)));
  }
  // As in a cache of files, where a folder holds links.
  fs::create_directory(folder_ / "blobs");
  fs::rename(folder_ / "two.safetensors", folder_ / "blobs" / "0123");
  fs::create_symlink("blobs/0123", folder_ / "two.safetensors");
  EXPECT_TRUE(open().tensor("c").equal(torch::full({2}, 3.0F)));
}

TEST_F(OpenWeights, RefusesShardsThatDoNotFitTheirIndex) {
  save_shards();
  save("two.safetensors", {{"c", torch::ones({2})}, {"a", torch::ones({2})}});
  EXPECT_THAT(refusal(),
              AllOf(HasSubstr("the tensor \"a\" is in"), HasSubstr("and in another shard of")));
  save("two.safetensors", {{"d", torch::ones({2})}});
  EXPECT_THAT(refusal(), AllOf(HasSubstr("two.safetensors' lacks the tensor \"c\""),
                               HasSubstr("says is there")));
  write_text(folder_ / "two.safetensors", "cut");
  EXPECT_THAT(refusal(), HasSubstr("two.safetensors' is not a valid safetensors file"));
  fs::remove(folder_ / "two.safetensors");
  EXPECT_THAT(refusal(), AllOf(HasSubstr("two.safetensors' is missing"),
                               HasSubstr("copy every shard beside it")));
}

TEST_F(OpenWeights, RefusesAnIndexThatIsNone) {
  save("one.safetensors", {{"a", torch::ones({2})}});
  const std::string name = "model.safetensors.index.json";
  for (const char* outside : {"../one.safetensors", "/etc/passwd", "x/../../one.safetensors", "..",
                              ".", "", "one.safetensors\\u0000", "sub\\\\one.safetensors"}) {
    SCOPED_TRACE(outside);
    save_index(name, R"("a": ")" + std::string(outside) + "\"");
    EXPECT_THAT(
        refusal(),
        AllOf(HasSubstr(name + ": weight_map.a must be the name of a file beside the index")));
  }
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"("a": 3)", "weight_map.a must be a string"},
      {"", "weight_map names no tensor"},
      {R"("a": "one.safetensors", "a": "two.safetensors")", "a"},
  };
  for (const auto& [map, message] : cases) {
    save_index(name, map);
    EXPECT_THAT(refusal(), AllOf(HasSubstr(name), HasSubstr(message)));
  }
  write_text(folder_ / name, "{}");
  EXPECT_THAT(refusal(), HasSubstr("weight_map must be an object"));
  write_text(folder_ / name, "{\"weight_map\"");
  EXPECT_THAT(refusal(), HasSubstr("expected JSON"));
}

}  // namespace
}  // namespace halftone::weights_test
