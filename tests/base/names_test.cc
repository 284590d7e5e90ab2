#include "base/names.h"

#include <string>

#include "gtest/gtest.h"

namespace bflow {
namespace {

TEST(NamesTest, OfModels) {
  for (const char* good : {"a", "0", "patient_12-b", "sampler"})
    EXPECT_TRUE(IsValidModelName(good));
  for (const char* bad : {"", "A", "_a", "-a", "a.b", "../a", "a/b", "other", "x-sampler", "a%2e",
                          "a\\b", "\xc2\xb7"}) {
    EXPECT_FALSE(IsValidModelName(bad)) << bad;
  }
  EXPECT_TRUE(IsValidModelName(std::string(64, 'a')));
  EXPECT_FALSE(IsValidModelName(std::string(65, 'a')));
  EXPECT_FALSE(IsValidModelName(std::string_view("a\0b", 3)));
}

TEST(NamesTest, OfLabels) {
  for (const char* good : {"a", "stable", "a_1-b"}) EXPECT_TRUE(IsValidLabel(good)) << good;
  for (const char* bad : {"", "1a", "_a", "A", "a b", "a.b"})
    EXPECT_FALSE(IsValidLabel(bad)) << bad;
  EXPECT_TRUE(IsValidLabel(std::string(32, 'a')));
  EXPECT_FALSE(IsValidLabel(std::string(33, 'a')));
}

}  // namespace
}  // namespace bflow
