// SPDX-License-Identifier: Apache-2.0
#include "halftone/media/annotations.h"

#include <expat.h>
#include <fmt/format.h>

#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <type_traits>

#include "halftone/core/error.h"
#include "halftone/system/file.h"

namespace halftone {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxXmlBytes = std::uint64_t{32} << 20U;
constexpr std::string_view kInherited = "\u2191\u2191\u2191";  // the parent language's

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const std::size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

std::vector<std::string> split_keywords(std::string_view text) {
  std::vector<std::string> keywords;
  while (!text.empty()) {
    const std::size_t bar = text.find('|');
    if (const std::string_view word = trimmed(text.substr(0, bar)); !word.empty())
      keywords.emplace_back(word);
    text = bar == std::string_view::npos ? std::string_view() : text.substr(bar + 1);
  }
  return keywords;
}

class AnnotationParser {
 public:
  explicit AnnotationParser(const fs::path& path)
      : path_(path), parser_(XML_ParserCreate("UTF-8"), &XML_ParserFree) {
    if (!parser_) throw std::bad_alloc();
    XML_SetUserData(parser_.get(), this);
    XML_SetElementHandler(parser_.get(), on_start, on_end);
    XML_SetCharacterDataHandler(parser_.get(), on_text);
    XML_SetEntityDeclHandler(parser_.get(), on_entity);
  }

  std::vector<Annotation> parse(const std::string& xml) {
    const auto size = static_cast<int>(xml.size());
    if (XML_Parse(parser_.get(), xml.data(), size, XML_TRUE) != XML_STATUS_OK)
      fail(declares_entity_ ? "expected no declaration of an entity"
                            : XML_ErrorString(XML_GetErrorCode(parser_.get())));
    std::erase_if(found_, [](const Annotation& one) { return one.name.empty(); });
    if (found_.empty()) fail("expected elements <annotation cp=\"...\" type=\"tts\">, got none");
    return std::move(found_);
  }

 private:
  static AnnotationParser& of(void* user) { return *static_cast<AnnotationParser*>(user); }

  // What is thrown must not pass through expat's frames.
  static void on_start(void* user, const XML_Char* name, const XML_Char** attributes) noexcept {
    AnnotationParser& self = of(user);
    self.open_.reset();
    if (std::string_view(name) != "annotation") return;
    Element element;
    for (; *attributes != nullptr; attributes += 2) {
      if (std::string_view(attributes[0]) == "cp") element.text = attributes[1];
      if (std::string_view(attributes[0]) == "type")
        element.is_name = std::string_view(attributes[1]) == "tts";
    }
    if (!element.text.empty()) self.open_ = std::move(element);
  }
  static void on_text(void* user, const XML_Char* text, int bytes) noexcept {
    AnnotationParser& self = of(user);
    if (self.open_) self.open_->content.append(text, static_cast<std::size_t>(bytes));
  }
  static void on_end(void* user, const XML_Char*) noexcept {
    AnnotationParser& self = of(user);
    if (self.open_) self.add(*self.open_);
    self.open_.reset();
  }
  static void on_entity(void* user, const XML_Char*, int, const XML_Char*, int, const XML_Char*,
                        const XML_Char*, const XML_Char*, const XML_Char*) noexcept {
    of(user).declares_entity_ = true;
    XML_StopParser(of(user).parser_.get(), XML_FALSE);
  }

  struct Element {
    std::string text;
    bool is_name = false;
    std::string content;
  };

  void add(const Element& element) {
    const std::string_view content = trimmed(element.content);
    if (content == kInherited) return;
    const auto [place, is_new] = places_.try_emplace(element.text, found_.size());
    if (is_new) found_.push_back({.text = element.text});
    Annotation& annotation = found_[place->second];
    if (element.is_name)
      annotation.name = content;
    else
      annotation.keywords = split_keywords(content);
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw UserError(
        fmt::format("'{}' is not an annotation file of CLDR: line {}: {}; fetch the "
                    "data again with 'halftone data fetch emoji'",
                    path_.string(), XML_GetCurrentLineNumber(parser_.get()), what));
  }

  fs::path path_;
  std::unique_ptr<std::remove_pointer_t<XML_Parser>, decltype(&XML_ParserFree)> parser_;
  std::optional<Element> open_;
  std::vector<Annotation> found_;
  std::map<std::string, std::size_t> places_;
  bool declares_entity_ = false;
};

}  // namespace

std::vector<Annotation> read_annotations(const fs::path& path) {
  const std::string xml = read_file(path, kMaxXmlBytes);
  return AnnotationParser(path).parse(xml);
}

}  // namespace halftone
