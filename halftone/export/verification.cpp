// SPDX-License-Identifier: Apache-2.0
#include "halftone/export/verification.h"

#include <ATen/ops/stack.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/data/corpus.h"
#include "halftone/nn/evaluation_mode.h"
#include "halftone/precision/policy.h"
#include "halftone/pretrain/pretrain_inputs.h"
#include "halftone/system/json_reader_impl.h"
#include "halftone/train/mixed_precision.h"

namespace halftone {
namespace {

using torch::Tensor;

constexpr std::int64_t kMaxLines = 1'000'000;
constexpr std::size_t kRows = 32;         // whose loss is compared
constexpr std::size_t kLogitsRows = 8;    // of them, whose logits are
constexpr std::int64_t kRowLength = 256;  // predictions of a row

/// Words, numbers, contractions, white space of several kinds, scripts, marks and code.
const std::vector<std::string>& sample_texts() {
  static const std::vector<std::string> texts = {
      "It's a fine day, isn't it? We'll see; they've said 3.14159 isn't 22/7 -- I'd agree.",
      "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。",
      "Über den Wolken muß die Freiheit wohl grenzenlos sein. Déjà vu, naïve façade, año.",
      "Съешь же ещё этих мягких французских булок, да выпей чаю.",
      "いろはにほへと ちりぬるを。今日は２０２４年１２月です。",
      "다람쥐 헌 쳇바퀴에 타고파. مرحبا بالعالم ١٢٣. नमस्ते दुनिया १२३. שלום עולם",
      "for (int i = 0; i < 10; ++i) {\n\tsum += a[i] * 2;  // twice\n}\r\n\n\n  done\t\t \n",
      "e\u0301 = é, \u00A0no-break\u3000wide\u2003em, \U0001F600\U0001F468\u200D\U0001F469 !?!? "
      "... ''s 's 'S 'RE",
      " leading and trailing   spaces   ",
      "\n",
      "0 00 1e-5 0xFF 1,000,000 ½ ² Ⅷ ٣"};
  return texts;
}

/// The rows that the models are compared on, filled as the text goes by.
class CheckedRows {
 public:
  CheckedRows(const Tokenizer& tokenizer, std::int64_t length)
      : special_(tokenizer.special_tokens()), length_(length) {}

  void add(const std::vector<std::int32_t>& ids) {
    if (ids_.size() >= kRows * static_cast<std::size_t>(length_ + 1)) return;
    ids_.push_back(special_.bos);
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    ids_.push_back(special_.eos);
  }

  /// (rows, length + 1); one shorter row where the text is short.
  Tensor rows() const {
    const auto all = static_cast<std::int64_t>(ids_.size());
    const std::int64_t width = std::min(length_ + 1, all);
    const std::int64_t count = std::min<std::int64_t>(all / width, kRows);
    return torch::tensor(ids_).narrow(0, 0, count * width).view({count, width});
  }

 private:
  SpecialTokens special_;
  std::int64_t length_;
  std::vector<std::int64_t> ids_;
};

class TokenComparison {
 public:
  TokenComparison(const Tokenizer& trained, const Tokenizer& exported, const ExportFormat& format,
                  CheckedRows& rows)
      : trained_(trained), exported_(exported), format_(format), rows_(rows) {}

  void add(const std::string& text, SpecialTokenParsing parsing) {
    const std::vector<std::int32_t> ids = trained_.encode(text, parsing);
    const std::string theirs = format_.normalizes_text() ? text : trained_.normalized(text);
    if (check.difference.empty() && exported_.encode(theirs, parsing) != ids)
      check.difference = quoted_json(text);
    check.lines += 1 + std::count(text.begin(), text.end(), '\n');
    check.tokens += static_cast<std::int64_t>(ids.size());
    rows_.add(ids);
  }

  /// Between words stands each token that is found in a text as a whole.
  void add_special_tokens() {
    std::string text = "a";
    for (std::int32_t id = 0; id < trained_.vocab_size(); ++id)
      if (trained_.is_special(id)) text += " b " + trained_.id_to_token(id).value_or("") + "c";
    for (const auto parsing : {SpecialTokenParsing::kText, SpecialTokenParsing::kTokens})
      if (check.difference.empty() &&
          trained_.encode(text, parsing) != exported_.encode(text, parsing))
        check.difference = quoted_json(text);
    const SpecialTokens ours = trained_.special_tokens(), theirs = exported_.special_tokens();
    if (ours.bos != theirs.bos || ours.eos != theirs.eos || ours.pad != theirs.pad)
      check.difference = "the tokens for beginning, end and padding";
  }

  TokenCheck check;

 private:
  const Tokenizer& trained_;
  const Tokenizer& exported_;
  const ExportFormat& format_;
  CheckedRows& rows_;
};

/// The texts of a document: its own, or what each message of its chats says.
std::vector<std::string> texts_of(const Document& document) {
  if (document.kind == SampleKind::kText) return {document.text};
  std::vector<std::string> texts;
  for (const std::vector<ChatMessage>& chat : {document.messages, document.rejected})
    for (const ChatMessage& message : chat) {
      texts.push_back(message.content);
      if (message.reasoning_content) texts.push_back(*message.reasoning_content);
    }
  return texts;
}

void compare_on_training_text(TokenComparison& comparison, const TrainConfig& config,
                              const ExportProgress& progress) {
  Corpus corpus = open_corpus(config);
  const SpecialTokenParsing parsing = special_token_parsing(config);
  Document document;
  std::int64_t shown = 0;
  while (comparison.check.lines < kMaxLines && corpus.next(document)) {
    const bool is_text = document.kind == SampleKind::kText;
    for (const std::string& text : texts_of(document))
      comparison.add(text, is_text ? parsing : SpecialTokenParsing::kText);
    if (!progress || comparison.check.lines - shown < 1000) continue;
    shown = comparison.check.lines;
    progress("comparing token ids",
             std::min(1.0, static_cast<double>(corpus.bytes_read()) /
                               static_cast<double>(std::max<std::uint64_t>(corpus.bytes(), 1))));
  }
  if (comparison.check.tokens == 0) throw UserError("it holds no tokens");
  comparison.check.is_training_text = true;
}

TokenCheck compare_tokens(TokenComparison comparison, const std::optional<TrainConfig>& config,
                          const ExportProgress& progress) {
  try {
    if (config)
      compare_on_training_text(comparison, *config, progress);
    else
      comparison.check.why_not = "the model has no run that names it";
  } catch (const UserError& error) {
    comparison.check.why_not = error.what();
  }
  const TokenCheck of_text = comparison.check;
  for (const std::string& text : sample_texts())
    for (const auto parsing : {SpecialTokenParsing::kText, SpecialTokenParsing::kTokens})
      comparison.add(text, parsing);
  comparison.add_special_tokens();
  if (!of_text.is_training_text) return comparison.check;
  TokenCheck check = of_text;
  check.difference = comparison.check.difference;
  return check;
}

/// The first field of the shape that differs, or nothing.
std::string shape_difference(const ModelConfig& a, const ModelConfig& b) {
  const auto differ = [](const char* name, auto one, auto other) {
    return one == other ? std::string() : fmt::format("{} {} became {}", name, one, other);
  };
  const auto number = [](double x) { return static_cast<float>(x); };  // as GGUF holds it
  const auto experts = [](const ModelConfig& c) { return c.use_moe ? c : ModelConfig(); };
  for (const std::string& difference :
       {differ("dim", a.dim, b.dim), differ("n_layers", a.n_layers, b.n_layers),
        differ("n_heads", a.n_heads, b.n_heads), differ("n_kv_heads", a.n_kv_heads, b.n_kv_heads),
        differ("head_dim", head_dim_of(a), head_dim_of(b)),
        differ("hidden_dim", hidden_dim_of(a), hidden_dim_of(b)),
        differ("vocab_size", a.vocab_size, b.vocab_size),
        differ("max_seq_len", a.max_seq_len, b.max_seq_len),
        differ("norm_eps", number(a.norm_eps), number(b.norm_eps)),
        differ("rope_theta", number(a.rope_theta), number(b.rope_theta)),
        differ("use_moe", a.use_moe, b.use_moe),
        differ("n_routed_experts", experts(a).n_routed_experts, experts(b).n_routed_experts),
        differ("num_experts_per_tok", experts(a).num_experts_per_tok,
               experts(b).num_experts_per_tok)})
    if (!difference.empty()) return difference;
  return "";
}

struct Evaluated {
  Tensor logits;  // (rows, T, V) fp32
  double loss = 0;
};

Evaluated evaluated(TrainedModel& trained, const Tensor& rows, const MixedPrecision& precision) {
  const EvaluationMode mode(*trained.model);
  const auto region = precision.forward_context();
  const std::int64_t length = rows.size(1) - 1;
  std::vector<Tensor> logits;
  double nats = 0;
  for (std::int64_t i = 0; i < rows.size(0); ++i) {
    const Tensor input = rows.narrow(0, i, 1).narrow(1, 0, length).contiguous();
    const Tensor target = rows.narrow(0, i, 1).narrow(1, 1, length).contiguous();
    const Tensor mask = torch::ones({1, length});
    nats += trained.model->loss(input, target, mask).cross_entropy.item<double>();
    if (logits.size() < kLogitsRows)
      logits.push_back(trained.model->forward(input).logits.to(torch::kFloat).squeeze(0));
  }
  return {at::stack(logits), nats / static_cast<double>(rows.size(0))};
}

void compare_models(ExportCheck& check, TrainedModel& trained, TrainedModel& exported,
                    const Tensor& rows) {
  const MixedPrecision precision(parse_precision(check.precision), {}, torch::kCPU);
  const Evaluated before = evaluated(trained, rows, precision);
  const Evaluated after = evaluated(exported, rows, precision);
  const Tensor difference = (before.logits - after.logits).to(torch::kDouble);
  check.logits_error = difference.square().sum().item<double>() /
                       before.logits.to(torch::kDouble).square().sum().item<double>();
  check.same_choice =
      before.logits.argmax(-1).eq(after.logits.argmax(-1)).to(torch::kDouble).mean().item<double>();
  check.positions = rows.size(0) * (rows.size(1) - 1);
  check.loss_before = before.loss;
  check.loss_after = after.loss;
}

}  // namespace

ExportBounds export_bounds(const ExportFormat& format, ExportDtype dtype, const ModelConfig& model,
                           const LoraConfig& lora) {
  const bool rounds_as_trained = format.precision() != "32-true" && lora.rank == 0;
  if (rounds_as_trained || dtype == ExportDtype::kF32)
    return {.logits_error = 1e-6, .loss_change = 1e-4};
  // Where two experts' probabilities are near each other, rounded numbers choose the other one.
  const double flips = model.use_moe ? 5e-3 : 0.0;
  switch (dtype) {
    case ExportDtype::kF32:
      break;
    case ExportDtype::kF16:
      return {.logits_error = 1e-5 + flips, .loss_change = 1e-3};
    case ExportDtype::kBF16:
      return {.logits_error = 5e-4 + flips, .loss_change = 1e-2};
    case ExportDtype::kInt8:
      return {.logits_error = 2e-3 + flips, .loss_change = 2e-2};
  }
  HALFTONE_CHECK(false, "[export] there is no dtype ", static_cast<int>(dtype));
}

std::string ExportCheck::failure() const {
  if (!text.difference.empty())
    return fmt::format("its tokenizer gives other ids than that of the training, first for {}",
                       text.difference);
  if (!difference.empty()) return fmt::format("its model is another one: {}", difference);
  // Written so that nan fails.
  if (!(logits_error <= bounds.logits_error))
    return fmt::format(
        "its logits differ by {:.3g} (normalised mean square error), at most {:.3g} "
        "is allowed",
        logits_error, bounds.logits_error);
  if (!(std::fabs(loss_after - loss_before) <= bounds.loss_change))
    return fmt::format(
        "its loss is {:.6f} instead of {:.6f}, at most {:.3g} more or less is allowed", loss_after,
        loss_before, bounds.loss_change);
  return "";
}

ExportCheck verify_export(TrainedModel& trained, TrainedModel& exported,
                          const std::optional<TrainConfig>& config, const ExportFormat& format,
                          ExportDtype dtype, const ExportProgress& progress) {
  const ModelConfig& shape = trained.model->config();
  ExportCheck check{.precision = format.precision(),
                    .difference = shape_difference(shape, exported.model->config()),
                    .bounds = export_bounds(format, dtype, shape, trained.model->lora())};
  CheckedRows rows(trained.tokenizer, std::min(kRowLength, shape.max_seq_len));
  check.text =
      compare_tokens({trained.tokenizer, exported.tokenizer, format, rows}, config, progress);
  if (!check.difference.empty() || !check.text.difference.empty()) return check;
  if (progress) progress("comparing logits", 0.0);
  compare_models(check, trained, exported, rows.rows());
  return check;
}

}  // namespace halftone
