// SPDX-License-Identifier: Apache-2.0
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "halftone/models/model_family.h"
#include "halftone/pretrain/hugging_face_config.h"
#include "seed_writers.h"
#include "small_tokenizer.h"

namespace halftone::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const std::vector<ChatTemplate>& formats() {
  static const std::vector<ChatTemplate> made{
      ChatTemplate::minimind_v2(), ChatTemplate::minimind_2504(), ChatTemplate::minimind_2510(),
      ChatTemplate::minimind_v3(), ChatTemplate::qwen2(),         ChatTemplate::qwen3(),
      ChatTemplate::llama3()};
  return made;
}

/// Small ones have few bytes and every switch; one has all bytes.
void write_tokenizers(const fs::path& folder) {
  TokenizerSpec spec =
      small_vocabulary("the mon'a", {{.content = "<unk>"},
                                     {.content = "<s>"},
                                     {.content = "</s>"},
                                     {.content = "mo", .special = false, .normalized = true}});
  write_seed(folder / "small", write_tokenizer_json(spec));
  spec.unk_token = "<unk>";
  spec.fuse_unk = spec.ignore_merges = spec.add_prefix_space = true;
  spec.words = WordRule::kNone;
  write_seed(folder / "switches", write_tokenizer_json(spec));
  TokenizerSpec split = spec;
  split.add_prefix_space = false;
  split.composes = true;
  for (const WordRule rule : {WordRule::kQwen2, WordRule::kLlama3}) {
    split.words = rule;
    write_seed(folder / (rule == WordRule::kQwen2 ? "qwen2" : "llama3"),
               write_tokenizer_json(split));
  }
  json older = json::parse(write_tokenizer_json(spec));
  older["pre_tokenizer"] = {{"type", "Sequence"},
                            {"pretokenizers", json::array({older["pre_tokenizer"]})}};
  older["post_processor"] = older["decoder"];
  older["model"]["merges"] = {"o o", "m oo"};
  older["model"]["dropout"] = 0;
  write_seed(folder / "older", older.dump());
  write_seed(folder / "bytes", small_tokenizer(ChatTemplate::minimind_v2()).json());
  std::size_t index = 0;
  for (const ChatTemplate& format : formats()) {
    const TokenizerSpec marks = small_vocabulary("a m", marks_of(format));
    write_seed(
        folder / ("chat" + std::to_string(index++)),
        write_tokenizer_json(marks) + '\0' + write_tokenizer_config(config_for(format), marks));
  }
}

json eight_bits(const char* strategy, bool dynamic) {
  return {{"num_bits", 8},
          {"type", "int"},
          {"symmetric", true},
          {"strategy", strategy},
          {"dynamic", dynamic}};
}

void write_configs(const fs::path& folder) {
  const ModelConfig model{.dim = 8,
                          .n_layers = 2,
                          .n_heads = 2,
                          .n_kv_heads = 1,
                          .hidden_dim = 16,
                          .vocab_size = 32,
                          .max_seq_len = 64};
  std::size_t index = 0;
  for (const ModelFamily* const family : model_families())
    for (const FileForm& form : family->forms) {
      ModelConfig of_form = model;
      of_form.generation = family->generation;
      of_form.use_moe = form.has_experts;
      write_seed(folder / ("form" + std::to_string(index++)), hugging_face_config(of_form, form));
    }
  const ModelFamily& llama = family_of({.generation = "llama"});
  json config = json::parse(hugging_face_config(model, llama.forms.front()));
  config.erase("rope_theta");
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 1e4}};
  config["layer_types"] = {"full_attention", "full_attention"};
  write_seed(folder / "rope", config.dump());
  config["quantization_config"] = {{"quant_method", "compressed-tensors"},
                                   {"format", "int-quantized"},
                                   {"config_groups",
                                    {{"group_0",
                                      {{"targets", {"Linear"}},
                                       {"weights", eight_bits("channel", false)},
                                       {"input_activations", eight_bits("token", true)}}}}}};
  write_seed(folder / "w8a8", config.dump());
}

/// The first two bytes say how the target reads the rest.
void write_lines(const fs::path& folder) {
  const std::string text = R"({"text": "the moon 明月\n\u660e"})";
  const std::string chat =
      R"({"conversations": [{"role": "system", "content": "s", "tools": [{"name": "f"}]},)"
      R"({"role": "user", "content": "q"}, {"role": "assistant", "content": "",)"
      R"("reasoning_content": "why", "tool_calls": [{"name": "f", "arguments": {"x": 1.5}}]},)"
      R"({"role": "tool", "content": "1"}, {"content": "<think>a</think>b"}]})";
  const std::string spoken =
      R"({"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]})";
  const std::string pair =
      R"({"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant",)"
      R"("content": "a"}], "rejected": [{"role": "assistant", "content": "b"}], "tools": "[]"})";
  const std::string question =
      R"({"question": "q", "A": "a", "B": "b", "C": "c", "D": "d", "answer": "B", "id": 1})";
  write_seed(folder / "text", "00one\n\n two\n\nthree\n");
  write_seed(folder / "paragraphs", "01\xEF\xBB\xBFone\n\n two\n \nthree");
  write_seed(folder / "fortune", "10\x1B[1mone\x1B[0m\n%\n_\btwo\n%\n");
  write_seed(folder / "lines", "20" + text + "\n\n" + chat + "\n" + pair + "\n");
  write_seed(folder / "texts", "2<" + text + "\n" + text);
  write_seed(folder / "replaced", "2>{\"text\": \"\xFF\"}\n");
  write_seed(folder / "chats", "24" + chat + "\n" + spoken + "\n");
  write_seed(folder / "array", "30[" + pair + ",\n " + text + ", " + chat + "]\n");
  write_seed(folder / "choices", "40" + question + "\n" + question + "\n");
  write_seed(folder / "prompts", "50{\"prompt\": \"the moon\"}\n");
}

}  // namespace

void write_seed(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

void write_text_seeds(const fs::path& folder) {
  write_tokenizers(folder / "tokenizer");
  write_configs(folder / "config");
  write_lines(folder / "jsonl");
}

}  // namespace halftone::test
