// SPDX-License-Identifier: Apache-2.0
#include "halftone/media/annotations.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "halftone/core/error.h"
#include "support/temp_folder.h"

namespace halftone::annotations_test {
namespace {

using test::message_of;
using test::TempFolder;
using test::write_text;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

const std::string kStart =
    "<?xml version=\"1.0\" encoding=\"UTF-8\" ?>\n"
    "<!DOCTYPE ldml SYSTEM \"../../common/dtd/ldml.dtd\">\n"
    "<ldml><annotations>\n";
const std::string kEnd = "</annotations></ldml>\n";

class Annotations : public testing::Test {
 protected:
  std::vector<Annotation> read(const std::string& xml) const {
    write_text(folder_ / "en.xml", xml);
    return read_annotations(folder_ / "en.xml");
  }
  std::string error_of(const std::string& xml) const {
    return message_of<UserError>([&] { read(xml); });
  }
  TempFolder folder_;
};

TEST_F(Annotations, AreReadInOrder) {
  const auto all =
      read(kStart +
           "<annotation cp=\"😀\"> face |grin| grinning face|</annotation>\n"
           "<annotation cp=\"😀\" type=\"tts\">grinning face</annotation>\n"
           "<annotation cp=\"&amp;\" type=\"tts\">ampersand &lt;&#x26;&gt;</annotation>\n"
           "<annotation cp=\"x\">no name</annotation>\n"
           "<annotation cp=\"y\" type=\"tts\">↑↑↑</annotation>\n" +
           kEnd);
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[0].text, "😀");
  EXPECT_EQ(all[0].name, "grinning face");
  EXPECT_THAT(all[0].keywords, ElementsAre("face", "grin", "grinning face"));
  EXPECT_EQ(all[1].text, "&");
  EXPECT_EQ(all[1].name, "ampersand <&>");
  EXPECT_TRUE(all[1].keywords.empty());
}

TEST_F(Annotations, ThatAreNoXmlAreRefusedByLine) {
  EXPECT_THAT(error_of(kStart + "<annotation cp=\"a\" type=\"tts\">a</annotated>\n" + kEnd),
              AllOf(HasSubstr("en.xml' is not an annotation file of CLDR: line 4: mismatched tag"),
                    HasSubstr("halftone data fetch emoji")));
  EXPECT_THAT(error_of(kStart + "<annotation cp=\"a\" type=\"tts\">a</annotation>\n"),
              HasSubstr("line 5: no element found"));
  EXPECT_THAT(error_of(kStart + "<annotation cp=\"\xFF\" type=\"tts\">a</annotation>" + kEnd),
              HasSubstr("line 4: not well-formed"));
  EXPECT_THAT(error_of(""), HasSubstr("line 1: no element found"));
  EXPECT_THAT(error_of(kStart + kEnd), HasSubstr("expected elements <annotation cp="));
  EXPECT_THAT(message_of<UserError>([&] { read_annotations(folder_ / "zh.xml"); }),
              HasSubstr("zh.xml"));
}

// Ten of ten of ten ...: gigabytes of text in a file of a few hundred bytes.
TEST_F(Annotations, MayNotDeclareEntities) {
  std::string declared = "<!ENTITY a0 \"aaaaaaaaaa\">\n";
  for (int i = 1; i < 12; ++i) {
    declared += "<!ENTITY a" + std::to_string(i) + " \"";
    for (int times = 0; times < 10; ++times) declared += "&a" + std::to_string(i - 1) + ";";
    declared += "\">\n";
  }
  EXPECT_THAT(error_of("<!DOCTYPE ldml [\n" + declared +
                       "]><ldml><annotation cp=\"a\" type=\"tts\">&a11;</annotation></ldml>"),
              HasSubstr("line 2: expected no declaration of an entity"));
}

}  // namespace
}  // namespace halftone::annotations_test
