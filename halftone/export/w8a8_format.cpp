// SPDX-License-Identifier: Apache-2.0
// A Hugging Face folder of the library compressed-tensors, "int-quantized": the linear layers'
// weights as int8 with a scale for each output, their inputs quantized by the server token by
// token. Both are rounded as int8-mixed rounds them, so what was trained is what is served.
// Embedding, head and norms stay fp32.
#include <map>
#include <string>

#include "halftone/core/error.h"
#include "halftone/export/formats_impl.h"
#include "halftone/io/safetensors.h"
#include "halftone/models/int8_weights.h"
#include "halftone/models/parameter_names.h"

namespace halftone {
namespace {

using nlohmann::ordered_json;

bool is_linear_layer(const std::string& name, const torch::Tensor& tensor) {
  return tensor.dim() == 2 && name.find(".layers.") != std::string::npos &&
         name.ends_with("_proj.weight");
}

ordered_json eight_bits(const char* strategy, bool dynamic) {
  return {{"num_bits", 8},
          {"type", "int"},
          {"symmetric", true},
          {"strategy", strategy},
          {"dynamic", dynamic}};
}

ordered_json quantization_config() {
  const ordered_json group = {{"targets", {"Linear"}},
                              {"weights", eight_bits("channel", false)},
                              {"input_activations", eight_bits("token", true)},
                              {"output_activations", nullptr}};
  return {{"quant_method", "compressed-tensors"},
          {"format", "int-quantized"},
          {"quantization_status", "compressed"},
          {"kv_cache_scheme", nullptr},
          {"ignore", {"lm_head"}},
          {"config_groups", {{"group_0", group}}}};
}

class W8A8Format : public ExportFormat {
 public:
  std::string_view name() const override { return "w8a8"; }
  std::vector<ExportDtype> dtypes() const override { return {ExportDtype::kInt8}; }
  std::string precision() const override { return "int8-mixed"; }

  void check(const ExportSource& source, ExportDtype /*dtype*/) const override {
    hugging_face_form(source.model);
    source.tokenizer.special_tokens();
    if (source.model.use_moe)
      throw UserError(
          "w8a8: a model with experts can't be loaded by transformers, which keeps a layer's "
          "experts in one tensor and has no int8 for it; export it with --format hf or gguf");
  }

  void write(const ExportSource& source, ExportDtype dtype,
             const std::filesystem::path& folder) const override {
    std::map<std::string, torch::Tensor> tensors;
    for (const auto& [name, tensor] :
         to_hugging_face_names(source.parameters, source.model).tensors) {
      if (!is_linear_layer(name, tensor)) {
        tensors[name] = tensor.contiguous();
        continue;
      }
      const Int8Weight weight = quantize_weight(tensor);
      tensors[name] = weight.integers;
      tensors[name + kScaleSuffix] = weight.scales;
    }
    save_safetensors(folder / "model.safetensors", tensors, {{"format", "pt"}});
    ordered_json config = config_for(source, hugging_face_form(source.model), dtype);
    config["quantization_config"] = quantization_config();
    write_json(folder / "config.json", config);
    write_tokenizer_files(source.tokenizer, folder);
  }

  TrainedModel read(const std::filesystem::path& folder) const override {
    return load_trained_model(folder);
  }
};

}  // namespace

const ExportFormat& w8a8_format() {
  static const W8A8Format format;
  return format;
}

}  // namespace halftone
