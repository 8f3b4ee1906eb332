// SPDX-License-Identifier: Apache-2.0
// fuzz_seeds FOLDER writes a folder for each target: small files with every part of the formats,
// which the fuzzers change.
#include <array>
#include <filesystem>
#include <iostream>

#include "halftone/export/model_gguf.h"
#include "halftone/io/gguf.h"
#include "halftone/io/safetensors.h"
#include "halftone/models/model_config.h"
#include "seed_writers.h"
#include "support/torch_file.h"

namespace {

namespace fs = std::filesystem;
namespace pickle = halftone::test::pickle;
using halftone::GgufArray;
using halftone::GgufMetadata;
using halftone::GgufTensor;
using halftone::GgufType;
using halftone::test::torch_file;
using halftone::test::torch_file_of;
using halftone::test::write_seed;
using halftone::test::ZipPart;

std::map<std::string, torch::Tensor> small_tensors() {
  return {{"w", torch::arange(6.0).reshape({2, 3})},
          {"诗", torch::ones({}, torch::kHalf)},
          {"v", torch::ones({2}, torch::kBFloat16)}};
}

void write_safetensors(const fs::path& folder) {
  halftone::save_safetensors(folder / "floats", small_tensors(), {{"format", "pt"}});
  std::map<std::string, torch::Tensor> kinds;
  for (const torch::ScalarType dtype :
       {torch::kDouble, torch::kLong, torch::kInt, torch::kShort, torch::kChar, torch::kByte,
        torch::kBool, torch::kFloat8_e4m3fn, torch::kFloat8_e5m2})
    kinds[c10::toString(dtype)] = torch::zeros({1, 0, 2}, dtype);
  kinds["bool"] = torch::ones({3}, torch::kBool);
  halftone::save_safetensors(folder / "kinds", kinds);
  halftone::save_safetensors(folder / "none", {});
}

const std::vector<ZipPart> kStorages = {{"0", std::string(24, '\1')}, {"1", std::string(8, '\0')}};

std::map<std::string, std::string> objects() {
  const std::string view =
      pickle::rebuilt({.elements = 6, .offset = 1, .sizes = {2, 2}, .strides = {1, 2}});
  const std::string fp16 = pickle::rebuilt(
      {.storage = "HalfStorage", .key = "1", .elements = 4, .sizes = {4}, .strides = {1}});
  const std::string parameter = pickle::call(pickle::global("torch._utils", "_rebuild_parameter"),
                                             {view, "\x88", pickle::ordered_dict({})});
  const std::string fp8 = pickle::call(
      pickle::global("torch._utils", "_rebuild_tensor_v3"),
      {pickle::tuple({pickle::text("storage"), pickle::global("torch.storage", "UntypedStorage"),
                      pickle::text("1"), pickle::text("cpu"), pickle::integer(8)}) +
           "Q",
       "K\1", "K\2\x85", "K\1\x85", "\x89", pickle::ordered_dict({}),
       pickle::global("torch", "float8_e4m3fn")});
  const std::string weights =
      pickle::ordered_dict({pickle::text("w"), view, pickle::text("h"), fp16, pickle::text("p"),
                            parameter, pickle::text("f"), fp8});
  return {{"plain", pickle::dict({pickle::text("w"), view})},
          {"metadata", weights + "}" + pickle::text("_metadata") + pickle::ordered_dict({}) + "sb"},
          {"resume", pickle::dict({pickle::text("model"), weights, pickle::text("epoch"), "K\3",
                                   pickle::text("step"), "\x8a\2\xff\1", pickle::text("none"), "N",
                                   pickle::text("lr"), "G?\xf0" + std::string(6, '\0'),
                                   pickle::text("list"), "](K\1M\1\1J\1\1\1\1e"})}};
}

/// Each type of a value, alone and in arrays.
template <class... T>
void set_each(GgufMetadata& metadata, const T&... values) {
  std::size_t index = 0;
  ((metadata.set("one." + std::to_string(index), values),
    metadata.set("many." + std::to_string(index++), GgufArray(std::vector<T>{values, values}))),
   ...);
}

GgufMetadata small_model(bool has_experts) {
  GgufMetadata metadata;
  halftone::set_model_metadata(metadata, {.generation = "qwen3",
                                          .dim = 32,
                                          .n_layers = 1,
                                          .n_heads = 1,
                                          .n_kv_heads = 1,
                                          .head_dim = 2,
                                          .hidden_dim = 2,
                                          .vocab_size = 4,
                                          .max_seq_len = 8,
                                          .use_moe = has_experts,
                                          .n_routed_experts = 2,
                                          .num_experts_per_tok = 1,
                                          .n_shared_experts = 0});
  metadata.set("tokenizer.ggml.model", std::string("gpt2"));
  metadata.set("tokenizer.ggml.pre", std::string("gpt-2"));
  metadata.set("tokenizer.ggml.tokens", GgufArray(std::vector<std::string>{"<s>", "a", "aa", "x"}));
  metadata.set("tokenizer.ggml.token_type", GgufArray(std::vector<std::int32_t>{3, 1, 1, 4}));
  metadata.set("tokenizer.ggml.merges", GgufArray(std::vector<std::string>{"a a"}));
  for (const char* role : {"bos", "eos", "padding"})
    metadata.set(std::string("tokenizer.ggml.") + role + "_token_id", std::uint32_t{0});
  metadata.set("tokenizer.chat_template", std::string("{{ messages }}"));
  return metadata;
}

std::map<std::string, GgufTensor> small_weights(bool has_experts) {
  std::map<std::string, GgufTensor> tensors;
  const auto add = [&](const std::string& name, std::vector<std::int64_t> sizes) {
    tensors[name + ".weight"] = {torch::ones(sizes),
                                 sizes.size() >= 2 ? GgufType::kF16 : GgufType::kF32};
  };
  for (const char* name : {"attn_q", "attn_k", "attn_v"})
    add(std::string("blk.0.") + name, {2, 32});
  add("blk.0.attn_output", {32, 2});
  const std::string matrix = has_experts ? "_exps" : "";
  const auto add_matrices = [&](const std::string& name, std::vector<std::int64_t> sizes) {
    if (has_experts) sizes.insert(sizes.begin(), 2);
    add("blk.0." + name + matrix, std::move(sizes));
  };
  for (const char* name : {"ffn_gate", "ffn_up"}) add_matrices(name, {2, 32});
  add_matrices("ffn_down", {32, 2});
  if (has_experts) add("blk.0.ffn_gate_inp", {2, 32});
  for (const char* name : {"attn_q_norm", "attn_k_norm"}) add(std::string("blk.0.") + name, {2});
  for (const char* name : {"attn_norm", "ffn_norm"}) add(std::string("blk.0.") + name, {32});
  add("output_norm", {32});
  tensors["token_embd.weight"] = {torch::ones({4, 32}), GgufType::kQ8_0};
  return tensors;
}

void write_gguf(const fs::path& folder) {
  GgufMetadata metadata;
  set_each(metadata, std::uint8_t{1}, std::int8_t{-1}, std::uint16_t{2}, std::int16_t{-2},
           std::uint32_t{3}, std::int32_t{-3}, 0.5F, true, std::string("诗"), std::uint64_t{4},
           std::int64_t{-4}, -0.5);
  metadata.set("general.alignment", std::uint32_t{8});
  const std::map<std::string, GgufTensor> tensors{
      {"f32", {torch::arange(6.0).reshape({2, 3}), GgufType::kF32}},
      {"f16", {torch::ones({}), GgufType::kF16}},
      {"bf16", {torch::ones({1, 1, 2, 1}), GgufType::kBF16}},
      {"q8", {torch::arange(64.0).reshape({2, 32}), GgufType::kQ8_0}},
      {"none", {torch::ones({0, 2}), GgufType::kF32}}};
  halftone::save_gguf(folder / "kinds", metadata, tensors);
  halftone::save_gguf(folder / "none", {}, {});
  for (const bool has_experts : {false, true})
    halftone::save_gguf(folder / (has_experts ? "experts" : "model"), small_model(has_experts),
                        small_weights(has_experts));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: fuzz_seeds FOLDER\n";
    return 2;
  }
  const fs::path folder = argv[1];
  for (const char* target : {"safetensors", "pth", "pickle", "gguf", "tokenizer", "config", "jsonl",
                             "png", "wav", "font", "annotations", "speech"})
    fs::create_directories(folder / target);
  write_safetensors(folder / "safetensors");
  write_gguf(folder / "gguf");
  halftone::test::write_text_seeds(folder);
  halftone::test::write_media_seeds(folder);
  for (const auto& [name, object] : objects()) {
    write_seed(folder / "pickle" / name, pickle::program(object));
    write_seed(folder / "pth" / name, torch_file(object, kStorages, {.has_checksums = false}));
  }
  write_seed(folder / "pth/zip64", torch_file(objects()["plain"], kStorages, {.is_zip64 = true}));
  write_seed(folder / "pth/small", torch_file_of(small_tensors()));
}
