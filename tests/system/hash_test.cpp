// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/hash.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace halftone::hash_test {
namespace {

TEST(Hash, EqualsThePublishedValuesOfXxh64) {
  EXPECT_EQ(hash_bytes(""), 0xEF46DB3751D8E999);
  EXPECT_EQ(hash_bytes("a"), 0xD24EC4F1A98C6E5B);
  EXPECT_EQ(hash_bytes("abc"), 0x44BC2CF5AD770999);
  EXPECT_EQ(hash_bytes("Nobody inspects the spammish repetition"), 0xFBCEA83C8A378BF1);
}

TEST(Hash, DoesNotDependOnHowTheBytesArrive) {
  std::string bytes;
  for (int i = 0; i < 200; ++i) bytes += static_cast<char>(i * 7);
  for (std::size_t part = 1; part < 80; ++part) {
    Hasher hasher;
    for (std::size_t at = 0; at < bytes.size(); at += part) hasher.update(bytes.substr(at, part));
    EXPECT_EQ(hasher.digest(), hash_bytes(bytes)) << part;
  }
}

// Digests of the implementation that wrote the checkpoints and caches so far, over the lengths
// where the algorithm takes another way.
TEST(Hash, KeepsTheDigestsThatStandInFiles) {
  std::string bytes;
  for (int i = 0; i < 1000; ++i) bytes += static_cast<char>(i * 31 + i / 7);
  Hasher all;
  for (std::size_t size = 0; size <= bytes.size(); ++size) {
    const std::uint64_t digest = hash_bytes(std::string_view(bytes).substr(0, size));
    all.update({reinterpret_cast<const char*>(&digest), sizeof(digest)});
  }
  EXPECT_EQ(all.digest(), 0x7788E5221E02433D);
}

TEST(Hash, MayBeCopiedInTheMiddle) {
  Hasher first;
  first.update("Nobody inspects ");
  Hasher second = first;
  first.update("x");
  second.update("the spammish repetition");
  EXPECT_EQ(second.digest(), 0xFBCEA83C8A378BF1);
}

TEST(Hash, FieldsDoNotRunTogether) {
  Hasher first;
  first.update_field("ab");
  first.update_field("c");
  Hasher second;
  second.update_field("a");
  second.update_field("bc");
  EXPECT_NE(first.digest(), second.digest());
}

}  // namespace
}  // namespace halftone::hash_test
