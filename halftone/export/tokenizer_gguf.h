// SPDX-License-Identifier: Apache-2.0
// A tokenizer in GGUF's metadata, such that llama.cpp gives the ids of Tokenizer::encode().
#pragma once

#include <cstdint>
#include <string>

#include "halftone/io/gguf.h"
#include "halftone/tokenizer/tokenizer.h"

namespace halftone {

/// Adds tokenizer.ggml.* and the chat template. Ids from the tokenizer's to `vocab_size`, which a
/// model may have beyond it, are marked as unused. llama.cpp splits text by a rule that
/// tokenizer.ggml.pre names: "gpt-2", "qwen2" or "llama-bpe" (tokenizer/pre_tokenizer.h). It does
/// not compose text (NFC), so ids of text that is not composed differ. Throws UserError, which
/// names the reason, for a tokenizer of which llama.cpp would make other ids.
void set_tokenizer_metadata(GgufMetadata& metadata, const Tokenizer& tokenizer,
                            std::int64_t vocab_size);

/// The tokenizer that the metadata describe. Throws UserError that names `origin`, the file.
Tokenizer tokenizer_of_gguf(const GgufMetadata& metadata, const std::string& origin);

}  // namespace halftone
