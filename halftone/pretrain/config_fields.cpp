// SPDX-License-Identifier: Apache-2.0
// The table itself: one entry per key.
#include <cmath>
#include <limits>
#include <string>
#include <type_traits>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/kernels/common/fused_kernels.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/models/model_family.h"
#include "halftone/optim/lr_schedule.h"
#include "halftone/precision/policy.h"
#include "halftone/pretrain/config_schema.h"
#include "halftone/train/batch_weight.h"

namespace halftone {
namespace {

struct Check {
  std::string expected;
  std::function<bool(const ConfigValue&)> accepts;
  std::vector<std::string> choices;
};

// Products of two such numbers still fit in 64 bits.
constexpr std::int64_t kMostOfAnything = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kMostParts = 10'000;   // layers, experts: each costs time to build
constexpr std::int64_t kMostThreads = 1'024;  // far more than LibTorch can start crash it

Check whole(std::int64_t least, std::string expected, std::int64_t most = kMostOfAnything) {
  return {std::move(expected), [least, most](const ConfigValue& v) {
            const auto number = std::get<std::int64_t>(v);
            return number >= least && number <= most;
          }};
}

Check positive_integer() { return whole(1, "a positive integer"); }

Check number_of_parts(std::int64_t least) {
  return whole(least, "an integer from " + std::to_string(least) + " to 10000", kMostParts);
}

Check number(std::string expected, bool (*in_range)(double)) {
  return {std::move(expected),
          [in_range](const ConfigValue& v) { return in_range(std::get<double>(v)); }};
}

Check positive_number() {
  return number("a positive number", [](double x) { return x > 0; });
}

Check number_from_zero() {
  return number("a number that is 0 or more", [](double x) { return x >= 0; });
}

Check true_or_false() {
  return {"true or false", [](const ConfigValue&) { return true; }};
}

Check one_of(std::vector<std::string> choices) {
  std::string expected = "one of ";
  for (const std::string& choice : choices)
    expected += (choice == choices.front() ? "" : ", ") + choice;
  return {std::move(expected),
          [choices](const ConfigValue& v) {
            return std::find(choices.begin(), choices.end(), std::get<std::string>(v)) !=
                   choices.end();
          },
          choices};
}

Check path() {
  return {"a path",
          [](const ConfigValue& v) { return !find_invalid_utf8(std::get<std::string>(v)); }};
}

Check texts(std::string expected) {
  return {std::move(expected), [](const ConfigValue& v) {
            const auto& all = std::get<std::vector<std::string>>(v);
            return std::all_of(all.begin(), all.end(), [](const std::string& one) {
              return !one.empty() && !find_invalid_utf8(one);
            });
          }};
}

bool is_loss_scale(const ConfigValue& value) {
  const auto& text = std::get<std::string>(value);
  const std::optional<double> number = parse_number(text);
  return text == "dynamic" || text == "adaptive" || (number && *number > 0);
}

bool is_memory_budget(const ConfigValue& value) {
  const auto& text = std::get<std::string>(value);
  return text == "available" || text == "unlimited" || parse_bytes(text).value_or(0) > 0;
}

bool is_watch(const ConfigValue& value) {
  const auto& text = std::get<std::string>(value);
  const double number = parse_number(text).value_or(0.0);
  const bool is_interval = number >= 1.0 && number <= static_cast<double>(kMostOfAnything) &&
                           number == std::floor(number);
  return text == "off" || text == "auto" || is_interval;
}

/// Whether `parse` takes it.
template <class Parse>
bool is_taken(const ConfigValue& value, const Parse& parse) {
  try {
    parse(std::get<std::string>(value));
    return true;
  } catch (const UserError&) {
    return false;
  }
}

bool is_matmul(const ConfigValue& value) {
  return std::get<std::string>(value) == "auto" ||
         is_taken(value, [](const std::string& text) { parse_cpu_gemm_config(text); });
}

bool are_kernels(const ConfigValue& value) {
  return is_taken(value, [](const std::string& text) { check_reference_kernels(text); });
}

bool is_device(const ConfigValue& value) {
  const auto& text = std::get<std::string>(value);
  constexpr std::string_view kCuda = "cuda:";
  if (text == "auto" || text == "cpu" || text == "cuda") return true;
  return text.starts_with(kCuda) && text.size() > kCuda.size() && text.size() <= kCuda.size() + 3 &&
         text.find_first_not_of("0123456789", kCuda.size()) == std::string::npos;
}

template <auto First, auto... Rest, class Struct>
auto& member_of(Struct& object) {
  if constexpr (sizeof...(Rest) == 0)
    return object.*First;
  else
    return member_of<Rest...>(object.*First);
}

template <class T>
struct OptionalTraits {
  using Value = T;
  static constexpr bool kOptional = false;
};
template <class T>
struct OptionalTraits<std::optional<T>> {
  using Value = T;
  static constexpr bool kOptional = true;
};

template <class T>
constexpr ConfigKind kind_of() {
  if constexpr (std::is_same_v<T, bool>) return ConfigKind::kSwitch;
  if constexpr (std::is_same_v<T, std::int64_t>) return ConfigKind::kInteger;
  if constexpr (std::is_same_v<T, double>) return ConfigKind::kNumber;
  if constexpr (std::is_same_v<T, std::vector<std::string>>) return ConfigKind::kTexts;
  return ConfigKind::kText;
}

/// The field for the member that the pointers-to-member `Path` lead to.
template <auto... Path>
ConfigField field(const std::string& key, Check check, const std::string& help) {
  using Member = std::remove_cvref_t<decltype(member_of<Path...>(std::declval<TrainConfig&>()))>;
  using Traits = OptionalTraits<Member>;
  using Value = typename Traits::Value;
  ConfigField result{.key = key, .kind = kind_of<Value>(), .help = help};
  result.expected = std::move(check.expected);
  result.choices = std::move(check.choices);
  result.accepts = std::move(check.accepts);
  result.get = [](const TrainConfig& config) -> ConfigValue {
    const Member& member = member_of<Path...>(config);
    if constexpr (Traits::kOptional)
      return member ? ConfigValue(*member) : ConfigValue();
    else
      return member;
  };
  result.set = [](TrainConfig& config, const ConfigValue& value) {
    Member& member = member_of<Path...>(config);
    if (std::holds_alternative<std::monostate>(value))
      member = Member();
    else
      member = std::get<Value>(value);
  };
  return result;
}

ConfigField with_kind(ConfigKind kind, ConfigField field) {
  field.kind = kind;
  return field;
}

ConfigField input_path(ConfigField field) {
  field.is_path = true;
  return field;
}

ConfigField changeable(ConfigField field) {
  field.may_change_on_resume = true;
  return field;
}

ConfigField formerly(const std::string& key, const std::map<std::string, std::string>& choices,
                     ConfigField field) {
  field.former_key = key;
  field.former_choices = choices;
  return field;
}

using C = TrainConfig;
using M = ModelConfig;
using S = ScalerConfig;
using R = MemoryOptions;
using K = KernelConfig;
using L = LoraConfig;

std::vector<std::string> generation_names() {
  std::vector<std::string> names;
  for (const ModelFamily* const family : model_families()) names.emplace_back(family->generation);
  return names;
}

std::vector<ConfigField> model_fields() {
  return {
      field<&C::preset>("preset", one_of(preset_names()),
                        "size of the model; the keys below change parts of it"),
      field<&C::model, &M::generation>("model.generation", one_of(generation_names()),
                                       "family of the model: a generation of MiniMind, or another"),
      field<&C::model, &M::dim>("model.dim", positive_integer(), "width of the residual stream"),
      field<&C::model, &M::n_layers>("model.n_layers", number_of_parts(1), "transformer blocks"),
      field<&C::model, &M::n_heads>("model.n_heads", positive_integer(), "query heads"),
      field<&C::model, &M::n_kv_heads>("model.n_kv_heads", positive_integer(),
                                       "key and value heads; divides n_heads"),
      field<&C::model, &M::head_dim>("model.head_dim", whole(0, "an integer that is 0 or more"),
                                     "width of a head; 0: dim / n_heads"),
      field<&C::model, &M::hidden_dim>(
          "model.hidden_dim", whole(0, "an integer that is 0 or more"),
          "width of the feed-forward layer, or of each expert; 0: by the rule of the generation"),
      field<&C::model, &M::vocab_size>(
          "model.vocab_size", whole(0, "an integer that is 0 or more"),
          "rows of the embedding; 0: as many as the tokenizer has tokens"),
      field<&C::model, &M::max_seq_len>("model.max_seq_len", positive_integer(),
                                        "positions that the model accepts"),
      field<&C::model, &M::norm_eps>("model.norm_eps", positive_number(), "epsilon of RMSNorm"),
      field<&C::model, &M::rope_theta>("model.rope_theta", positive_number(),
                                       "base of the rotary position embedding"),
      field<&C::model, &M::dropout>("model.dropout",
                                    number("a number from 0 up to, not including, 1",
                                           [](double x) { return x >= 0 && x < 1; }),
                                    "share of activations dropped in training"),
      field<&C::model, &M::tie_embeddings>("model.tie_embeddings", true_or_false(),
                                           "one matrix for the embedding and the output head"),
      field<&C::model, &M::use_moe>("model.use_moe", true_or_false(),
                                    "mixture of experts instead of one feed-forward layer"),
      field<&C::model, &M::n_routed_experts>("model.n_routed_experts", number_of_parts(1),
                                             "experts that the router chooses from"),
      field<&C::model, &M::num_experts_per_tok>("model.num_experts_per_tok", positive_integer(),
                                                "experts chosen for a token"),
      field<&C::model, &M::n_shared_experts>("model.n_shared_experts", number_of_parts(0),
                                             "experts that every token passes through"),
      field<&C::model, &M::aux_loss_alpha>("model.aux_loss_alpha", number_from_zero(),
                                           "weight of the router's balance loss"),
  };
}

std::vector<ConfigField> data_fields() {
  return {
      field<&C::task>(
          "task", one_of({"pretrain", "sft", "dpo"}),
          "what is learned; pretrain: text; sft: the answers in chats; dpo: to prefer the "
          "better of two chats, starting from init_from"),
      field<&C::dpo, &DpoConfig::beta>(
          "dpo.beta", positive_number(),
          "how far dpo may move from the model that it starts from: less with a larger one"),
      input_path(field<&C::data>(
          "data", texts("one or more paths"),
          "what to train on: text or fortune files, .jsonl, .json, folders; repeatable")),
      input_path(field<&C::tokenizer>("tokenizer", path(),
                                      "tokenizer.json to use; empty: train one on the data")),
      field<&C::tokenizer_vocab_size>("tokenizer_vocab_size", positive_integer(),
                                      "tokens of a tokenizer trained on the data"),
      field<&C::pack>(
          "pack", true_or_false(),
          "fill rows with documents one after the other; false: a document per row, padded"),
      field<&C::document_mask>(
          "document_mask", true_or_false(),
          "of packed documents, none knows of another: attention and positions "
          "begin anew with each, as in rows of their own"),
      field<&C::shuffle>("shuffle", true_or_false(), "a new order of the rows in every epoch"),
      field<&C::invalid_utf8>("invalid_utf8", one_of({"error", "replace"}),
                              "what to do about bytes that are not UTF-8"),
      field<&C::special_tokens>(
          "special_tokens", one_of({"text", "tokens"}),
          "how to read special tokens, such as </s>, that the text spells; tokens: as the tokens, "
          "and a text's own begin and end are not marked twice"),
  };
}

std::vector<ConfigField> lora_fields() {
  return {
      field<&C::lora, &L::rank>(
          "lora.rank", whole(0, "an integer that is 0 or more"),
          "rank of the adapters that are trained in the place of the weights (LoRA), which come "
          "from init_from; 0: no adapters, all weights are trained"),
      field<&C::lora, &L::alpha>("lora.alpha", positive_number(),
                                 "what an adapter adds is multiplied by alpha / rank; without it, "
                                 "alpha is twice the rank"),
      field<&C::lora, &L::dropout>("lora.dropout",
                                   number("a number from 0 up to, not including, 1",
                                          [](double x) { return x >= 0 && x < 1; }),
                                   "share of an adapter's input dropped in training"),
      field<&C::lora, &L::targets>(
          "lora.targets", texts("one or more names of layers"),
          "layers that have an adapter, in every block and by PEFT's names: q_proj, k_proj, "
          "v_proj, "
          "o_proj, gate_proj, up_proj, down_proj, or all-linear for these; repeatable"),
      input_path(field<&C::lora_adapter>(
          "lora.adapter", path(),
          "adapter to go on from: a folder of PEFT's, or MiniMind's .pth; it says rank, alpha and "
          "targets; empty: a new one")),
  };
}

std::vector<ConfigField> validation_fields() {
  return {
      input_path(field<&C::val_data>(
          "val_data", texts("one or more paths"),
          "text to validate on while training, of the kinds that data takes; repeatable")),
      field<&C::val_split>(
          "val_split",
          number("a number between 0 and 1, such as 0.01", [](double x) { return x > 0 && x < 1; }),
          "share of the documents of data to validate on instead: the seed chooses "
          "them, and they are never trained on"),
      changeable(
          field<&C::val_every>("val_every", positive_integer(),
                               "optimizer steps from one validation to the next; without it, "
                               "those of save_every. The last step has one in any case")),
      changeable(field<&C::early_stop>(
          "early_stop", whole(0, "an integer that is 0 or more"),
          "validations in a row without a lower val_loss that end the run; 0: none do")),
  };
}

std::vector<std::string> precision_choices() {
  std::vector<std::string> names = precision_names();
  names.emplace_back(kAutoPrecision);
  return names;
}

std::vector<ConfigField> precision_fields() {
  return {
      field<&C::precision>("precision", one_of(precision_choices()),
                           "what is computed in which format; auto: what train measures to be the "
                           "fastest here, of those whose gradients are right"),
      field<&C::memory, &R::rounding>("rounding", one_of({"stochastic", "nearest"}),
                                      "rounding of updated weights that are kept in bf16"),
      with_kind(ConfigKind::kWordOrNumber,
                field<&C::loss_scale>(
                    "loss_scale", {"dynamic, adaptive or a positive number", is_loss_scale},
                    "factor on the loss in 16-mixed and 16-true; adaptive measures the gradients")),
      field<&C::keep_fp32>(
          "keep_fp32", texts("one or more regular expressions"),
          "modules that stay in fp32 in a mixed precision: regular expressions on their names, or "
          "type: and one on their class"),
      field<&C::layer_precision>(
          "layer_precision", texts("one or more of REGEX=FORMAT"),
          "formats of single linear layers in a mixed precision, such as feed_forward=int8: a "
          "regular expression as in keep_fp32, which goes first, and one of fp32, bf16, fp16, "
          "int8, fp8-row, fp8; of two that match a layer the later one counts"),
  };
}

std::vector<ConfigField> memory_fields() {
  return {
      field<&C::memory, &R::memory>(
          "memory", one_of(memory_names()),
          "how weights, gradients and AdamW's state are kept; lean: in bf16 and 8 bits, with "
          "blocks "
          "recomputed; leanest: each gradient only until it is applied, too. The keys below change "
          "parts of it"),
      field<&C::memory, &R::master_weights>(
          "master_weights", one_of({"auto", "fp32", "split16", "split8", "none"}),
          "fp32 weights, or bf16 ones with 16, 8 or no bits more beside them"),
      field<&C::memory, &R::gradients>("gradients", one_of({"auto", "fp32", "bf16"}),
                                       "format that gradients of bf16 weights are added up in"),
      field<&C::memory, &R::moments>("moments", one_of({"auto", "fp32", "bf16", "int8"}),
                                     "format of AdamW's moments"),
      field<&C::memory, &R::recompute>(
          "recompute", one_of({"auto", "none", "blocks"}),
          "what the backward pass computes again instead of keeping it"),
      field<&C::memory, &R::release_gradients>(
          "release_gradients", one_of({"auto", "on", "off"}),
          "apply each gradient in the backward pass as it comes, and free it"),
      formerly("clip_norm", {{"running", "previous"}},
               field<&C::memory, &R::clip_mode>(
                   "clip_mode", one_of({"auto", "exact", "previous"}),
                   "norm that grad_clip limits; exact: of the step's gradients, which costs a "
                   "second backward pass where they are released; previous: of the step before, "
                   "or of those so far if larger")),
      changeable(input_path(field<&C::memory, &R::offload>(
          "offload", path(),
          "folder on a fast disk where AdamW's states lie in a file instead of memory, with the "
          "same bits; empty: in memory"))),
      changeable(field<&C::memory_budget>(
          "memory_budget", {"available, unlimited or a size such as 8GiB", is_memory_budget, {}},
          "memory that the process may take: a run that will not fit is refused. available: what "
          "the machine has left; unlimited: it is tried")),
  };
}

std::vector<ConfigField> scaler_fields() {
  return {
      field<&C::scaler, &S::init_scale>("scaler.init_scale", positive_number(), "first scale"),
      field<&C::scaler, &S::growth_factor>(
          "scaler.growth_factor", number("a number above 1", [](double x) { return x > 1; }),
          "factor after growth_interval good steps"),
      field<&C::scaler, &S::backoff_factor>(
          "scaler.backoff_factor",
          number("a number between 0 and 1", [](double x) { return x > 0 && x < 1; }),
          "factor after hysteresis overflows"),
      field<&C::scaler, &S::growth_interval>("scaler.growth_interval", positive_integer(),
                                             "good steps in a row before the scale grows"),
      field<&C::scaler, &S::hysteresis>("scaler.hysteresis", positive_integer(),
                                        "overflows before the scale falls"),
      field<&C::scaler, &S::min_scale>("scaler.min_scale", positive_number(), "lowest scale"),
      field<&C::scaler, &S::max_scale>("scaler.max_scale", positive_number(), "highest scale"),
  };
}

std::vector<ConfigField> optimization_fields() {
  return {
      field<&C::batch_size>("batch_size", positive_integer(), "rows of one micro-batch"),
      field<&C::seq_len>("seq_len", whole(2, "an integer of 2 or more"),
                         "tokens of a row; the default is no more than model.max_seq_len"),
      field<&C::accumulate>("accumulate", positive_integer(),
                            "micro-batches whose gradients make one optimizer step"),
      changeable(
          field<&C::shard>("shard", one_of(shard_names()),
                           "what of the training state each of several processes has a "
                           "part of only; optimizer: moments and masters; gradients: these, too; "
                           "parameters: weights, too")),
      field<&C::gradient_sum>(
          "gradient_sum", one_of({"sequential", "tree"}),
          "how a process adds up the gradients of a step's micro-batches; tree: "
          "with the same bits for 1, 2, 4, ... processes"),
      field<&C::reduce_dtype>("reduce_dtype", one_of({"fp32", "bf16"}),
                              "how gradients travel between processes; bf16 halves the bytes and "
                              "rounds twice"),
      field<&C::loss_average>("loss_average", one_of(loss_average_names()),
                              "what the loss of an optimizer step is the mean over; tokens: its "
                              "predicted tokens, however they are split; micro-batches: the means "
                              "of its micro-batches, as in MiniMind"),
      field<&C::lr>("lr", positive_number(), "learning rate of AdamW"),
      field<&C::schedule>("schedule", one_of(schedule_names()), "course of the learning rate"),
      field<&C::warmup>("warmup", whole(0, "an integer that is 0 or more"),
                        "optimizer steps over which the learning rate rises"),
      field<&C::weight_decay>("weight_decay", number_from_zero(), "weight decay of AdamW"),
      field<&C::grad_clip>("grad_clip", number_from_zero(),
                           "largest norm of the gradients; 0: any"),
      field<&C::seed>(
          "seed",
          whole(0, "an integer that is 0 or more", std::numeric_limits<std::int64_t>::max()),
          "seed of weights, order and dropout"),
      input_path(field<&C::init_from>(
          "init_from", path(),
          "weights to start from: a .safetensors or .pth file, a run, or a Hugging Face folder; a "
          "folder gives the tokenizer too, and the model unless a preset is given; empty: new "
          "ones")),
  };
}

std::vector<ConfigField> limit_fields() {
  return {
      changeable(field<&C::max_steps>("max_steps", positive_integer(),
                                      "optimizer steps, skipped ones included")),
      changeable(field<&C::max_epochs>("max_epochs", positive_integer(), "passes over the data")),
      changeable(with_kind(
          ConfigKind::kDuration,
          field<&C::max_time>(
              "max_time", number("a time such as 90s, 3m or 1h30m", [](double x) { return x > 0; }),
              "time that training may take"))),
  };
}

std::vector<ConfigField> machine_fields() {
  return {
      field<&C::device>("device", {"auto, cpu, cuda or cuda:N", is_device},
                        "where to train; auto: a GPU if there is one"),
      field<&C::threads>("threads", whole(0, "an integer from 0 to 1024", kMostThreads),
                         "CPU threads; 0: one per core"),
      field<&C::kernels, &K::matmul>(
          "kernels.matmul",
          {"auto, or ways of matmuls such as bf16=native,fp16=upcast,fp32=onednn", is_matmul, {}},
          "how a CPU multiplies matrices; auto: as measured, which a run records. HALFTONE_MATMUL "
          "goes first"),
      field<&C::kernels, &K::reference>(
          "kernels.reference",
          {"names of kernels, separated by commas, or all; empty: none", are_kernels, {}},
          "kernels that run their reference in LibTorch's operations. HALFTONE_REFERENCE_KERNELS "
          "goes first"),
      field<&C::kernels, &K::cpu_gemm>(
          "kernels.cpu_gemm", one_of({"on", "off", "all"}),
          "whether LibTorch's own layers take our 16-bit matmuls on a CPU; all: the smallest too. "
          "HALFTONE_CPU_GEMM goes first"),
  };
}

std::vector<ConfigField> output_fields() {
  ConfigField overwrite = field<&C::overwrite>("overwrite", true_or_false(),
                                               "replace the run that is in the run directory");
  overwrite.is_saved = false;
  return {
      field<&C::out>("out", path(), "run directory; empty: runs/ and the preset"),
      std::move(overwrite),
      changeable(field<&C::log_every>("log_every", positive_integer(),
                                      "optimizer steps from one line of progress to the next")),
      changeable(field<&C::tensorboard>(
          "tensorboard", true_or_false(),
          "event files for TensorBoard, with every log_every-th step and every validation")),
      changeable(with_kind(
          ConfigKind::kWordOrNumber,
          field<&C::watch>("watch", {"off, auto or a number of optimizer steps", is_watch, {}},
                           "statistics of every layer: norm and underflow of the gradient, size of "
                           "the update and "
                           "what rounding loses of it; N: in every N-th step, auto: in so many as "
                           "take less than "
                           "2 % of the time"))),
      changeable(field<&C::detect_anomaly>(
          "detect_anomaly", one_of({"off", "first"}),
          "first: end at the first loss that is not finite, gradient where there is no loss scale, "
          "or "
          "weight after an update, and name the operation; off: go on until ten updates in a row "
          "were skipped")),
      changeable(field<&C::save_every>(
          "save_every", whole(0, "an integer that is 0 or more"),
          "optimizer steps from one checkpoint to the next; 0: only the last")),
      changeable(field<&C::keep_checkpoints>("keep_checkpoints", positive_integer(),
                                             "newest checkpoints to keep")),
  };
}

}  // namespace

const std::vector<ConfigField>& config_fields() {
  static const std::vector<ConfigField> fields = [] {
    std::vector<ConfigField> all;
    const auto add = [&](const char* group, std::vector<ConfigField> part) {
      for (ConfigField& one : part) {
        one.group = group;
        all.push_back(std::move(one));
      }
    };
    add("Model", model_fields());
    add("Data", data_fields());
    add("LoRA", lora_fields());
    add("Validation", validation_fields());
    add("Precision", precision_fields());
    add("Memory", memory_fields());
    add("Loss scaler", scaler_fields());
    add("Optimization", optimization_fields());
    add("Limits", limit_fields());
    add("Machine", machine_fields());
    add("Run", output_fields());
    return all;
  }();
  return fields;
}

}  // namespace halftone
