// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/config_schema.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstdlib>
#include <set>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/core/text.h"
#include "halftone/pretrain/config_file.h"
#include "support/paths.h"
#include "support/temp_folder.h"

namespace halftone::config_schema_test {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::read_text;
using test::TempFolder;
using test::write_text;
using testing::ElementsAre;
using testing::HasSubstr;

TrainConfig from_toml(const std::string& text) {
  const TempFolder folder;
  write_text(folder / "a.toml", text);
  return resolve_config(read_config_file(folder / "a.toml"));
}

std::string toml_error(const std::string& text) {
  return message_of<UserError>([&] { from_toml(text); });
}

TrainConfig from_flags(const std::vector<std::pair<std::string, std::string>>& flags) {
  std::vector<ConfigAssignment> assignments;
  for (const auto& [key, text] : flags) assignments.push_back(assignment_from_flag(key, {text}));
  return resolve_config(assignments);
}

std::string flag_error(const std::string& key, const std::string& text) {
  return message_of<UserError>([&] { from_flags({{key, text}}); });
}

void expect_same(const TrainConfig& a, const TrainConfig& b) {
  for (const ConfigField& field : config_fields())
    EXPECT_EQ(field.get(a), field.get(b)) << field.key;
}

TEST(ConfigFields, AreCompleteAndDistinct) {
  std::set<std::string> keys;
  for (const ConfigField& field : config_fields()) {
    EXPECT_TRUE(keys.insert(field.key).second) << field.key;
    for (const std::string& text : {field.group, field.help, field.expected})
      EXPECT_FALSE(text.empty()) << field.key;
    EXPECT_EQ(field.key.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_."),
              std::string::npos);
  }
  for (const char* key : {"preset", "model.vocab_size", "data", "scaler.hysteresis", "max_time"})
    EXPECT_TRUE(keys.contains(key)) << key;
}

TEST(ConfigFields, DefaultsPassTheirOwnChecks) {
  const TrainConfig config = resolve_config({});
  for (const ConfigField& field : config_fields()) {
    const ConfigValue value = field.get(config);
    if (std::holds_alternative<std::monostate>(value)) continue;
    EXPECT_EQ(checked_assignment(field, value, "here").value, value) << field.key;
  }
}

TEST(ResolveConfig, DefaultsThenPresetThenFileThenFlags) {
  const TempFolder folder;
  write_text(folder / "a.toml",
             "lr = 1e-3\npreset = \"tiny\"\nbatch_size = 3\n[model]\nn_layers = 7\n");
  std::vector<ConfigAssignment> assignments = read_config_file(folder / "a.toml");
  assignments.push_back(assignment_from_flag("batch-size", {"5"}));
  const TrainConfig config = resolve_config(assignments);
  EXPECT_EQ(config.seq_len, 256);                          // default
  EXPECT_EQ(config.model.dim, preset_config("tiny").dim);  // preset
  EXPECT_EQ(config.model.n_layers, 7);                     // file over preset
  EXPECT_EQ(config.lr, 1e-3);
  EXPECT_EQ(config.batch_size, 5);  // flag over file
  EXPECT_EQ(config.model.vocab_size, 0);
  EXPECT_EQ(config.out, "runs/tiny");
}

TEST(ResolveConfig, AFolderToStartFromGivesTheModelAndTheTokenizer) {
  const TempFolder folder;
  write_text(folder / "config.json", R"({"model_type": "qwen3", "hidden_size": 64,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "vocab_size": 100, "intermediate_size": 128, "max_position_embeddings": 128,
    "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": false})");
  const std::string path = folder.path().string();
  TrainConfig config = from_flags({{"init_from", path}});
  EXPECT_EQ(config.model.generation, "qwen3");
  EXPECT_EQ(config.model.n_layers, 3);
  EXPECT_EQ(config.model.vocab_size, 100);
  EXPECT_FALSE(config.model.tie_embeddings);
  EXPECT_EQ(config.seq_len, 128);
  EXPECT_EQ(config.tokenizer, "");
  write_text(folder / "tokenizer.json", "{}");
  config = from_flags({{"init_from", path}, {"model.n_layers", "2"}});
  EXPECT_EQ(config.tokenizer, path);
  EXPECT_EQ(config.model.n_layers, 2);
  EXPECT_EQ(from_flags({{"init_from", path}, {"preset", "tiny"}}).model.dim, 128);
  EXPECT_EQ(from_flags({{"init_from", path}, {"preset", "tiny"}}).tokenizer, path);
  const std::string other = from_flags({{"init_from", path}, {"tokenizer", "other"}}).tokenizer;
  EXPECT_EQ(other.find(path), std::string::npos);
}

TEST(ResolveConfig, APresetInAFlagKeepsTheKeysOfTheFile) {
  const TempFolder folder;
  write_text(folder / "a.toml", "preset = \"minimind-26m\"\nmodel.dim = 64\n");
  std::vector<ConfigAssignment> assignments = read_config_file(folder / "a.toml");
  assignments.push_back(assignment_from_flag("preset", {"tiny"}));
  const TrainConfig config = resolve_config(assignments);
  EXPECT_EQ(config.model.dim, 64);
  EXPECT_EQ(config.model.n_layers, preset_config("tiny").n_layers);
}

TEST(ResolveConfig, DefaultsFollowWhatWasGivenBesideThem) {
  EXPECT_EQ(from_flags({{"model.max_seq_len", "64"}}).seq_len, 64);
  EXPECT_EQ(from_flags({{"model.max_seq_len", "64"}, {"seq_len", "32"}}).seq_len, 32);
  EXPECT_EQ(from_flags({{"model.vocab_size", "300"}}).tokenizer_vocab_size, 300);
  EXPECT_EQ(from_flags({{"model.vocab_size", "9000"}}).tokenizer_vocab_size, 6400);
  EXPECT_EQ(from_flags({{"scaler.max_scale", "1024"}}).scaler.init_scale, 1024);
  EXPECT_EQ(from_flags({{"scaler.min_scale", "131072"}}).scaler.init_scale, 131072);
  EXPECT_THAT(flag_error("seq_len", "9000"), HasSubstr("--seq-len: seq_len must be at most"));
  EXPECT_THAT(message_of<UserError>([] {
                from_flags({{"scaler.max_scale", "4"}, {"scaler.min_scale", "8"}});
              }),
              HasSubstr("--scaler.min-scale: scaler.min_scale must be at most scaler.max_scale"));
  EXPECT_THAT(message_of<UserError>([] {
                from_flags({{"scaler.max_scale", "4"}, {"scaler.init_scale", "8"}});
              }),
              HasSubstr("--scaler.init-scale: scaler.init_scale must lie between"));
}

// A command whose model comes from a run judges rows by that model.
TEST(MergeConfig, LeavesTheChecksOfSeveralKeysToTheCaller) {
  const TrainConfig config = merge_config({assignment_from_flag("seq_len", {"9000"})});
  EXPECT_EQ(config.seq_len, 9000);
  EXPECT_THAT(message_of<UserError>([&] { check_seq_len(9000, config.model, "--seq-len"); }),
              HasSubstr("--seq-len: seq_len must be at most model.max_seq_len 8192, got 9000"));
}

TEST(ResolveConfig, PatternsAreCheckedBeforeThereIsAModel) {
  EXPECT_THAT(flag_error("keep_fp32", "("),
              HasSubstr("--keep-fp32: keep_fp32: expected a regular expression, got '('"));
}

TEST(ResolveConfig, FormatsOfLayersAreCheckedBeforeThereIsAModel) {
  const TrainConfig config =
      from_toml("layer_precision = [\"feed_forward=int8\", 'layers\\.0\\.=bf16']\n");
  EXPECT_THAT(config.layer_precision, ElementsAre("feed_forward=int8", "layers\\.0\\.=bf16"));
  expect_same(from_toml(config_to_toml(config)), config);
  EXPECT_THAT(flag_error("layer_precision", "feed_forward"),
              HasSubstr("--layer-precision: layer_precision: expected REGEX=FORMAT"));
  EXPECT_THAT(flag_error("layer_precision", "feed_forward=fp16"),
              HasSubstr("--layer-precision: layer_precision: expected a format that can stand "
                        "among the layers of bf16-mixed"));
  EXPECT_THAT(toml_error("precision = \"32-true\"\nlayer_precision = \"norm=int8\""),
              HasSubstr("a.toml:2: layer_precision goes with a mixed precision"));
}

TEST(ResolveConfig, APrecisionToBeChosenGoesWithWhatAnyTakes) {
  EXPECT_EQ(from_flags({{"precision", "auto"}}).precision, "auto");
  EXPECT_EQ(from_flags({{"precision", "auto"}, {"memory", "lean"}}).memory.memory, "lean");
  const auto error = [](const std::string& key, const std::string& text) {
    return message_of<UserError>([&] { from_flags({{"precision", "auto"}, {key, text}}); });
  };
  EXPECT_THAT(error("keep_fp32", "norm"), HasSubstr("but precision is auto"));
  EXPECT_THAT(error("layer_precision", "w1=int8"), HasSubstr("but precision is auto"));
  EXPECT_THAT(error("loss_scale", "128"), HasSubstr("but precision is auto"));
  EXPECT_THAT(error("clip_mode", "previous"), HasSubstr("clip_mode previous goes with"));
}

TEST(ResolveConfig, ModelsThatNoMachineHoldsAreRefused) {
  EXPECT_THAT(message_of<UserError>([] {
                from_flags({{"model.use_moe", "true"},
                            {"model.n_layers", "10000"},
                            {"model.n_routed_experts", "10000"}});
              }),
              HasSubstr("at most 100000 experts in all layers"));
  EXPECT_THAT(message_of<UserError>([] {
                from_flags({{"model.dim", "2000000000"}, {"model.vocab_size", "2000000000"}});
              }),
              HasSubstr("parameters, got"));
}

TEST(ResolveConfig, InputPathsBecomeAbsolute) {
  const TrainConfig config =
      from_flags({{"data", "poems/../a.txt"}, {"init_from", "/w.safetensors"}});
  EXPECT_THAT(config.data, ElementsAre((fs::current_path() / "a.txt").string()));
  EXPECT_EQ(config.init_from, "/w.safetensors");
  EXPECT_EQ(config.tokenizer, "");
}

TEST(ConfigFlags, EveryKindOfValue) {
  const TrainConfig config = from_flags({{"pack", "false"},
                                         {"max-steps", "10"},
                                         {"lr", "1e-4"},
                                         {"schedule", "cosine"},
                                         {"max_time", "1h30m"},
                                         {"precision", "16-mixed"},
                                         {"loss-scale", "128"},
                                         {"device", "cuda:12"},
                                         {"model.n-layers", "3"},
                                         {"scaler.growth_interval", "7"}});
  EXPECT_FALSE(config.pack);
  EXPECT_EQ(config.max_steps, 10);
  EXPECT_EQ(config.lr, 1e-4);
  EXPECT_EQ(config.schedule, "cosine");
  EXPECT_EQ(config.max_time, 5400.0);
  EXPECT_EQ(config.loss_scale, "128");
  EXPECT_EQ(config.device, "cuda:12");
  EXPECT_EQ(config.model.n_layers, 3);
  EXPECT_EQ(config.scaler.growth_interval, 7);
  EXPECT_TRUE(resolve_config({assignment_from_flag("overwrite", {})}).overwrite);
  EXPECT_EQ(resolve_config({assignment_from_flag("data", {"/a", "/b"})}).data,
            (std::vector<std::string>{"/a", "/b"}));
}

TEST(ConfigFlags, Durations) {
  const std::vector<std::pair<std::string, double>> good = {
      {"90", 90},     {"90s", 90},          {"3m", 180}, {"1.5h", 5400},
      {"2d", 172800}, {"1h2m3.5s", 3723.5}, {"0.5", 0.5}};
  for (const auto& [text, seconds] : good)
    EXPECT_EQ(from_flags({{"max_time", text}}).max_time, seconds) << text;
  for (const char* text : {"", "3x", "m", "3m1h", "3m3m", "-3m", "0", "0s", "1h30", "1e999", "nan"})
    EXPECT_THAT(flag_error("max_time", text),
                HasSubstr("--max-time: max_time must be a time such as 90s, 3m or 1h30m, got "))
        << text;
}

TEST(ConfigFlags, SayWhatWasExpectedAndWhatCame) {
  EXPECT_EQ(flag_error("batch_size", "eight"),
            "--batch-size: batch_size must be a positive integer, got 'eight'");
  EXPECT_EQ(flag_error("max_steps", "0"),
            "--max-steps: max_steps must be a positive integer, got 0");
  EXPECT_EQ(flag_error("lr", "-1"), "--lr: lr must be a positive number, got -1");
  EXPECT_THAT(flag_error("precision", "bf16-mix"),
              HasSubstr("got 'bf16-mix'; did you mean 'bf16-mixed'?"));
  EXPECT_THAT(flag_error("loss_scale", "adaptiv"),
              HasSubstr("dynamic, adaptive or a positive number"));
  EXPECT_THAT(flag_error("pack", "yes"), HasSubstr("must be true or false, got 'yes'"));
  EXPECT_THAT(flag_error("device", "cuda:"), HasSubstr("auto, cpu, cuda or cuda:N"));
  EXPECT_THAT(flag_error("seed", "99999999999999999999"), HasSubstr("seed must be"));
  EXPECT_THAT(flag_error("out", "\xFF"), HasSubstr("out must be a path"));
  EXPECT_THAT(message_of<UserError>([] {
                assignment_from_flag("lr", {"1", "2"});
              }),
              HasSubstr("--lr: expected one value, got 2"));
  EXPECT_THAT(flag_error("n_layers", "1"),
              HasSubstr("there is no key 'n_layers'; did you mean 'model.n_layers'?"));
}

TEST(ConfigFile, NamesLineKeyAndRemedy) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"\n\nbatchsize = 3", "a.toml:3: there is no key 'batchsize'; did you mean 'batch_size'?"},
      {"zzzzzzzzzzzzzz = 3", "see 'halftone train --help'"},
      {"n_layers = 3", "did you mean 'model.n_layers'?"},
      {"[modl]\ndim = 3", "a.toml:1: there is no key 'modl'"},
      {"[model]\nn_layer = 3",
       "a.toml:2: there is no key 'model.n_layer'; did you mean 'model.n_layers'?"},
      {"model = 3", "a.toml:1: model is a table: write [model]"},
      {"lr = \"fast\"", "a.toml:1: lr must be a positive number, got 'fast'"},
      {"lr = inf", "lr must be a positive number, got inf"},
      {"lr = nan", "lr must be a positive number, got nan"},
      {"batch_size = 3.0", "batch_size must be a positive integer, got 3"},
      {"batch_size = true", "batch_size must be a positive integer, got true"},
      {"batch_size = 1979-05-27", "batch_size must be a positive integer, got a date or time"},
      {"[batch_size]\nx = 1", "got a table"},
      {"batch_size = [1]", "got a list"},
      {"data = [1, \"a\"]", "data must be one or more paths, got a list"},
      {"data = [\"\"]", "data must be one or more paths"},
      {"pack = \"true\"", "pack must be true or false, got 'true'"},
      {"max_time = -3", "max_time must be a time"},
      {"model.dropout = 1.0", "from 0 up to, not including, 1"},
      {"lr = 1\nlr = 2", "a.toml:2: not TOML: "},
      {"lr = ", "a.toml:1: not TOML: "},
      {"preset = tiny", "strings must be quoted: preset = \"tiny\""},
      {"a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q = 1", "a.toml:1: expected a key of at most 16 parts"},
      {"\xFF", "not TOML: "},
      {"model.n_heads = 3\nmodel.n_kv_heads = 2", "multiple of n_kv_heads"},
      {"precision = \"16-mixed\"\nscaler.init_scale = 0.5",
       "a.toml:2: scaler.init_scale must lie between"},
      {"precision = \"bf16-mixed\"\nloss_scale = 128",
       "a.toml:2: a loss scale goes with 16-true and 16-mixed"},
      {"precision = \"32-true\"\nkeep_fp32 = [\"norm\"]",
       "a.toml:2: keep_fp32 goes with a mixed precision"},
      {"model.max_seq_len = 64\nseq_len = 65",
       "a.toml:2: seq_len must be at most model.max_seq_len 64"},
  };
  for (const auto& [text, expected] : cases) {
    const std::string message = toml_error(text);
    EXPECT_THAT(message, HasSubstr(expected)) << text;
    EXPECT_EQ(message.find('\n'), std::string::npos) << text;
  }
}

// toml++ would overflow the stack.
TEST(ConfigFile, RefusesDeepKeysTablesAndValues) {
  std::string deep = "a";
  for (int i = 0; i < 100'000; ++i) deep += ".a";
  for (const std::string& text : {deep + " = 1", "[" + deep + "]", "[[" + deep + "]]",
                                  "x = {" + deep + " = 1}", "lr = 1\n\"a\".\"b\"." + deep + " = 1"})
    EXPECT_THAT(toml_error(text), HasSubstr("expected a key of at most 16 parts"));
  EXPECT_THAT(toml_error("data = " + std::string(100'000, '[')), HasSubstr("not TOML: "));
  std::string tables;
  for (int i = 0; i < 60'000; ++i) tables += "{a.b.c.d=";
  EXPECT_THAT(toml_error("x = " + tables), HasSubstr("not TOML: "));
}

TEST(ConfigFile, NamesPathsThatAreNoFiles) {
  const TempFolder folder;
  EXPECT_THAT(message_of<UserError>([&] { read_config_file(folder / "none.toml"); }),
              HasSubstr("none.toml': No such file"));
  EXPECT_THAT(message_of<UserError>([&] { read_config_file(folder.path()); }),
              HasSubstr("expected a file, found a folder"));
  write_text(folder / "big.toml", std::string(2'000'000, '#'));
  EXPECT_THAT(message_of<UserError>([&] { read_config_file(folder / "big.toml"); }),
              HasSubstr("is it the right one?"));
}

TEST(ConfigFile, AWrittenConfigurationReadsBackTheSame) {
  expect_same(from_toml(config_to_toml(resolve_config({}))), resolve_config({}));
  const TrainConfig odd = from_flags({{"preset", "tiny"},
                                      {"data", "/诗 \"quoted\"\\\x7F\t.txt"},
                                      {"lr", "0.1"},
                                      {"max_time", "0.1s"},
                                      {"max_epochs", "3"},
                                      {"precision", "16-true"},
                                      {"loss_scale", "3e-5"},
                                      {"model.norm_eps", "1e-06"},
                                      {"scaler.max_scale", "1e+22"},
                                      {"model.vocab_size", "777"},
                                      {"out", "a b"},
                                      {"pack", "false"}});
  const TrainConfig again = from_toml(config_to_toml(odd));
  expect_same(again, odd);
  EXPECT_EQ(config_to_toml(again), config_to_toml(odd));
}

TEST(ConfigFile, EveryDoubleReadsBackBitForBit) {
  for (std::uint64_t i = 0; i < 300; ++i) {
    TrainConfig config = resolve_config({});
    config.lr = std::abs(std::bit_cast<double>(random_word(5, i)));
    if (!std::isfinite(config.lr) || config.lr == 0) continue;
    EXPECT_EQ(from_toml(config_to_toml(config)).lr, config.lr);
  }
}

TEST(ConfigFile, OverwriteIsNotWrittenDown) {
  EXPECT_EQ(config_to_toml(from_flags({{"overwrite", "true"}})).find("overwrite"),
            std::string::npos);
}

// Any bytes give assignments or a UserError.
TEST(ConfigFile, AnEmptyInitFromIsNone) {
  const TempFolder folder;
  write_text(folder / "c.toml", "init_from = \"\"\ndata = [\"/a\"]\n");
  EXPECT_EQ(resolve_config(read_config_file(folder / "c.toml")).init_from, "");
}

TEST(ConfigFile, SurvivesDamagedFiles) {
  const TempFolder folder;
  const std::string good = config_to_toml(from_flags({{"data", "/a"}, {"max_time", "3m"}}));
  const std::string alphabet = "[]{}=\",.'#\n\\0123456789eE-_ \xE8\x00:T";
  int refused = 0;
  for (std::uint64_t round = 0; round < 1500; ++round) {
    std::uint64_t draws = 0;
    const auto draw = [&](std::size_t below) { return random_word(round, draws++) % below; };
    std::string text = good;
    for (std::size_t edits = 1 + draw(5); edits > 0; --edits) {
      const std::size_t at = draw(text.size());
      if (draw(3) == 0)
        text.erase(at, 1 + draw(20));
      else
        text[at] = draw(2) == 0 ? alphabet[draw(alphabet.size())] : static_cast<char>(draw(256));
    }
    write_text(folder / "fuzz.toml", text);
    try {
      resolve_config(read_config_file(folder / "fuzz.toml"));
    } catch (const UserError& error) {
      ++refused;
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    }
  }
  EXPECT_GT(refused, 300);
}

class ResumeConfig : public testing::Test {
 protected:
  ResumeConfig() {
    write_text(
        run_ / "config.toml",
        config_to_toml(from_flags({{"data", "a.txt"}, {"max_steps", "10"}, {"preset", "tiny"}})));
  }

  TrainConfig resume(const std::string& key, const std::string& text) const {
    return resume_config(run_.path(), {assignment_from_flag(key, {text})});
  }

  TempFolder run_;
};

TEST_F(ResumeConfig, TakesTheRunsOwnAndItsPlace) {
  const TrainConfig config = resume_config(run_.path(), {});
  EXPECT_EQ(config.max_steps, 10);
  EXPECT_EQ(config.preset, "tiny");
  EXPECT_EQ(config.out, run_.path().string());
}

// The file that the run began with may still leave the choice to the program.
TEST_F(ResumeConfig, TakesRecomputeAsTheRunHasChosenIt) {
  EXPECT_EQ(resume("shard", "parameters").memory.recompute, "blocks");
  write_text(run_ / "config.toml",
             config_to_toml(from_flags({{"data", "a.txt"}, {"shard", "parameters"}})));
  EXPECT_EQ(resume("recompute", "auto").memory.recompute, "blocks");
  EXPECT_THAT(message_of<UserError>([&] { resume("recompute", "none"); }),
              HasSubstr("recompute is \"blocks\" in the run"));
}

TEST_F(ResumeConfig, LimitsLoggingAndSavingMayChange) {
  EXPECT_EQ(resume("max_steps", "20").max_steps, 20);
  EXPECT_EQ(resume("max_epochs", "2").max_epochs, 2);
  EXPECT_EQ(resume("max_time", "3m").max_time, 180.0);
  EXPECT_EQ(resume("log_every", "1").log_every, 1);
  EXPECT_EQ(resume("save_every", "3").save_every, 3);
  EXPECT_EQ(resume("watch", "auto").watch, "auto");
  EXPECT_EQ(resume("keep_checkpoints", "5").keep_checkpoints, 5);
}

TEST_F(ResumeConfig, OfARunThatHadNoChoiceKeepsTheMeanOfMicroBatches) {
  EXPECT_EQ(resume_config(run_.path(), {}).loss_average, "tokens");
  write_text(run_ / "config.toml", "preset = \"tiny\"\n");
  EXPECT_EQ(resume_config(run_.path(), {}).loss_average, "micro-batches");
}

TEST_F(ResumeConfig, EqualValuesOfOtherKeysAreNoChange) {
  EXPECT_EQ(resume("lr", "5e-4").lr, 5e-4);
  EXPECT_EQ(resume("preset", "tiny").model.dim, preset_config("tiny").dim);
  EXPECT_NO_THROW(resume("data", "b/../a.txt"));
  EXPECT_NO_THROW(resume("out", run_.path().string() + "/../" + run_.path().filename().string()));
}

TEST_F(ResumeConfig, AnyOtherKeyIsAnErrorThatNamesIt) {
  const auto error = [&](const std::string& key, const std::string& text) {
    return message_of<UserError>([&] { resume(key, text); });
  };
  EXPECT_THAT(error("lr", "0.1"), HasSubstr("--lr: lr is 0.0005 in the run"));
  EXPECT_THAT(error("preset", "minimind-26m"), HasSubstr("--preset: preset is \"tiny\""));
  EXPECT_THAT(error("model.dim", "3"), HasSubstr("--model.dim: model.dim is"));
  EXPECT_THAT(error("data", "b.txt"), HasSubstr("--data"));
  EXPECT_THAT(error("out", "elsewhere"), HasSubstr("--out"));
  EXPECT_THAT(error("overwrite", "true"), HasSubstr("--overwrite"));
}

TEST_F(ResumeConfig, NeedsARun) {
  EXPECT_THAT(message_of<UserError>([&] { resume_config(run_ / "none", {}); }),
              HasSubstr("there is no run directory"));
}

TEST(FormerWords, AreReadAndNotWritten) {
  const TrainConfig config = from_flags({{"release_gradients", "on"}, {"clip_norm", "running"}});
  EXPECT_EQ(config.memory.clip_mode, "previous");
  const std::string toml = config_to_toml(config);
  EXPECT_THAT(toml, HasSubstr("clip_mode = \"previous\""));
  EXPECT_THAT(toml, testing::Not(HasSubstr("clip_norm")));
  EXPECT_EQ(config_field("clip-norm", "here").key, "clip_mode");
}

TEST(ConfigReference, IsTheCommittedPage) {
  const std::string page = std::string(test::kSourceDir) + "/docs/config.md";
  if (std::getenv("HALFTONE_UPDATE_DOCS") != nullptr) write_text(page, config_reference());
  EXPECT_EQ(read_text(page), config_reference()) << "set HALFTONE_UPDATE_DOCS=1 to write it again";
}

}  // namespace
}  // namespace halftone::config_schema_test
