// SPDX-License-Identifier: Apache-2.0
#include "halftone/media/emoji_family.h"

#include <fmt/format.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

namespace halftone {
namespace {

constexpr char32_t kSelector = 0xFE0F;
constexpr char32_t kJoiner = 0x200D;
constexpr char32_t kAdult = 0x1F9D1;
constexpr char32_t kChild = 0x1F9D2;
constexpr char32_t kOlder = 0x1F9D3;
constexpr char32_t kFamily = 0x1F46A;
constexpr char32_t kHeart = 0x2764;
constexpr char32_t kKiss = 0x1F48F;
constexpr char32_t kCouple = 0x1F491;
constexpr char32_t kHandshake = 0x1F91D;
constexpr char32_t kHoldingHands = 0x1F46B;
constexpr char32_t kHand = 0x1FAF1;
constexpr char32_t kSanta = 0x1F385;
constexpr char32_t kTree = 0x1F384;

// Forms that Unicode gave characters of their own.
constexpr std::array<std::pair<char32_t, char32_t>, 22> kForms = {{
    {0x1F468, kAdult},        {0x1F469, kAdult},         // man, woman
    {0x1F466, kChild},        {0x1F467, kChild},         // boy, girl
    {0x1F474, kOlder},        {0x1F475, kOlder},         // old man, old woman
    {0x1F471, kAdult},        {0x1F9D4, kAdult},         // with blond hair, with a beard
    {0x1F9D5, kAdult},        {0x1F472, kAdult},         // with a headscarf, with a cap
    {0x1F46C, kHoldingHands}, {0x1F46D, kHoldingHands},  // men, women holding hands
    {0x1F936, kSanta},        {0x1F57A, 0x1F483},        // Mrs. Claus, man dancing
    {0x1F478, 0x1FAC5},       {0x1F934, 0x1FAC5},        // princess, prince: person with crown
    {0x1F930, 0x1FAC4},       {0x1FAC3, 0x1FAC4},        // pregnant woman, man: person
    {0x1FAF2, kHand},         {0x1F448, 0x1F449},        // the left hand of two, pointing left
    {0x1F91C, 0x1F91B},       {0x1F5E3, 0x1F464},        // right-facing fist, speaking head
}};

bool is_skin_tone(char32_t one) { return one >= 0x1F3FB && one <= 0x1F3FF; }
bool is_hair(char32_t one) { return one >= 0x1F9B0 && one <= 0x1F9B3; }
bool is_gender(char32_t one) { return one == 0x2640 || one == 0x2642; }
bool is_person(char32_t one) { return one == kAdult || one == kChild || one == kOlder; }

std::u32string code_points(std::string_view text) {
  std::u32string points;
  const auto size = static_cast<std::int32_t>(text.size());
  for (std::int32_t at = 0; at < size;) {
    UChar32 one = 0;
    U8_NEXT_OR_FFFD(text.data(), at, size, one);
    points += static_cast<char32_t>(one);
  }
  return points;
}

std::string code_of(const std::u32string& points) {
  std::string code;
  for (const char32_t one : points)
    code += fmt::format("{}{:04X}", code.empty() ? "" : "-", static_cast<std::uint32_t>(one));
  return code;
}

char32_t plain_form(char32_t one) {
  const auto* form = std::find_if(kForms.begin(), kForms.end(),
                                  [&](const auto& entry) { return entry.first == one; });
  return form == kForms.end() ? one : form->second;
}

bool has(const std::u32string& points, char32_t one) {
  return points.find(one) != std::u32string::npos;
}

}  // namespace

std::string code_of_text(std::string_view text) { return code_of(code_points(text)); }

std::string without_selectors(std::string_view text) {
  constexpr std::string_view kUtf8 = "\uFE0F";
  std::string result(text);
  for (std::size_t at = result.find(kUtf8); at != std::string::npos; at = result.find(kUtf8, at))
    result.erase(at, kUtf8.size());
  return result;
}

bool has_skin_tone(std::string_view text) {
  const std::u32string points = code_points(text);
  // Alone, it is a swatch of the tone.
  return points.size() > 1 && std::any_of(points.begin(), points.end(), is_skin_tone);
}

std::string family_of_text(std::string_view text) {
  std::u32string points = code_points(text);
  if (points.size() == 1 && (is_skin_tone(points[0]) || is_hair(points[0]) || is_gender(points[0])))
    return code_of(points.substr(0, 1));
  std::erase_if(points, [](char32_t one) {
    return one == kSelector || one == kJoiner || is_skin_tone(one) || is_hair(one) ||
           is_gender(one);
  });
  for (char32_t& one : points) one = plain_form(one);
  if (has(points, kHeart) && std::any_of(points.begin(), points.end(), is_person))
    return code_of({has(points, 0x1F48B) ? kKiss : kCouple});
  if (points == std::u32string{kAdult, kHandshake, kAdult}) return code_of({kHoldingHands});
  if (points == std::u32string{kHand, kHand}) return code_of({kHandshake});
  if (points == std::u32string{kAdult, kTree}) return code_of({kSanta});
  if (points.size() > 1 && std::all_of(points.begin(), points.end(), is_person))
    return code_of({kFamily});
  if (points.size() == 1 && is_person(points[0])) return code_of({kAdult});
  return code_of(points);
}

}  // namespace halftone
