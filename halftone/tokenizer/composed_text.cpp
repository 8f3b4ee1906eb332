// SPDX-License-Identifier: Apache-2.0
#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>

#include <algorithm>
#include <cstdint>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/tokenizer/composed_text_impl.h"

namespace halftone {
namespace {

void append_composed(std::string_view text, std::string& to) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* const nfc = icu::Normalizer2::getNFCInstance(status);
  if (U_SUCCESS(status)) {
    icu::StringByteSink<std::string> sink(&to);
    nfc->normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<std::int32_t>(text.size())),
                       sink, nullptr, status);
  }
  if (U_FAILURE(status))
    throw UserError(std::string("cannot bring text into Unicode's form NFC: ") +
                    u_errorName(status));
}

}  // namespace

std::string composed_text(std::string_view text) {
  std::string composed;
  while (!text.empty()) {
    const std::size_t valid = find_invalid_utf8(text).value_or(text.size());
    if (valid > 0) append_composed(text.substr(0, valid), composed);
    if (valid < text.size()) composed += text[valid];
    text.remove_prefix(std::min(text.size(), valid + 1));
  }
  return composed;
}

}  // namespace halftone
