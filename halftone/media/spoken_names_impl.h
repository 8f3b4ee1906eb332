// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace halftone {

/// The first line of SPEAKER.tsv; `first` and `frames` are of SPEAKER.wav.
inline constexpr const char* kSpokenNamesHeader = "emoji\tfirst\tframes\tlanguage\ttext";

}  // namespace halftone
