// SPDX-License-Identifier: Apache-2.0
// Documents in JSON: an object on each line, or one array of objects. An object is one of
//   {"text": "..."}                                     text
//   {"conversations": [message, ...]}, or "messages"    a chat
//   {"chosen": [message, ...], "rejected": [...]}       a preference; "prompt" stands before both
// and a message {"role", "content"} with "reasoning_content", "tools" and "tool_calls", or
// {"from", "value"}. Without a role, user and assistant take turns. Other members are passed over.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "halftone/data/corpus.h"
#include "halftone/data/document_reader.h"

namespace halftone {

/// Throws UserError when the file, of kind kJsonl or kJsonArray, cannot be opened.
std::unique_ptr<DocumentReader> open_json_documents(const CorpusFile& file,
                                                    const CorpusOptions& options);

/// The document that `object` describes; `place` stands for it in errors. Of several kinds that one
/// object holds, the wanted one. Throws UserError.
Document document_of_json(std::string_view object, const std::string& place,
                          std::optional<SampleKind> wanted);

/// What `wanted` data looks like, such as {"text": "..."}.
const char* json_form_of(SampleKind kind);

/// Throws UserError, which names the task that takes data of kind `found`, unless it is wanted.
void check_sample_kind(SampleKind found, std::optional<SampleKind> wanted,
                       const std::string& place);

}  // namespace halftone
