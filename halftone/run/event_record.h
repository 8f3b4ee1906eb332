// SPDX-License-Identifier: Apache-2.0
// The frame of a record in TensorBoard's event files, which is TFRecord's: the length in 8 bytes,
// its checksum, the data, its checksum; integers are little-endian.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace halftone {

/// CRC-32C (RFC 3720, polynomial 0x1EDC6F41 reflected, as iSCSI has it).
std::uint32_t crc32c(std::string_view bytes);

/// `data` in its frame. The checksums are masked: rotated right by 15 bits, plus 0xA282EAD8.
std::string event_record(std::string_view data);

}  // namespace halftone
