// SPDX-License-Identifier: Apache-2.0
// The adapters of a run alone, as the library PEFT saves them: they are small, and stand beside the
// model that training started from.
#include "halftone/core/error.h"
#include "halftone/export/formats_impl.h"
#include "halftone/models/parameter_names.h"
#include "halftone/pretrain/peft_adapter.h"

namespace halftone {
namespace {

class PeftFormat : public ExportFormat {
 public:
  std::string_view name() const override { return "peft"; }
  std::vector<ExportDtype> dtypes() const override {
    return {ExportDtype::kF32, ExportDtype::kF16, ExportDtype::kBF16};
  }

  void check(const ExportSource& source, ExportDtype /*dtype*/) const override {
    if (source.lora.rank == 0)
      throw UserError(
          "peft: this model was trained without adapters (lora.rank 0); export it with --format "
          "hf");
    hugging_face_form(source.model);
    source.tokenizer.special_tokens();
  }

  void write(const ExportSource& source, ExportDtype dtype,
             const std::filesystem::path& folder) const override {
    StateDict adapter = adapter_parameters(source.unmerged);
    for (auto& entry : adapter.tensors) entry.second = entry.second.to(scalar_type_of(dtype));
    write_peft_adapter(folder, adapter, source.lora, source.model);
    write_tokenizer_files(source.tokenizer, folder);
  }

  TrainedModel read(const std::filesystem::path& folder) const override {
    return load_trained_model(folder);  // throws: it is no model by itself
  }

  TrainedModel read_beside(const ExportSource& source,
                           const std::filesystem::path& folder) const override {
    CausalLM model(source.model);
    load_parameters(model, base_parameters(source.unmerged), "the model beside the adapter");
    const Adapter adapter = read_adapter(folder, source.model);
    model->add_adapters(adapter.lora);
    load_adapter(model, adapter);
    return {.model = model, .tokenizer = Tokenizer::load(folder), .precision = "32-true"};
  }
};

}  // namespace

const ExportFormat& peft_format() {
  static const PeftFormat format;
  return format;
}

}  // namespace halftone
