#include "base/json.h"

#include <string>

#include "gtest/gtest.h"

namespace bflow {
namespace {

TEST(JsonTest, ParsesAnObject) {
  auto json = ParseJson(R"({"b":[1,2.5,"x"],"a":null})");
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ((*json)["b"][2], "x");
  EXPECT_EQ(json->begin().key(), "b") << "keys keep the order of the file";
}

TEST(JsonTest, RefusesWhatALenientParserLetsThrough) {
  for (const char* text : {R"({"a":1,"a":2})", R"({"a":1} x)", "{", "", "[1,]", "\xff",
                           "{\"a\":NaN}", R"({"a":{"b":1,"b":2}})"}) {
    EXPECT_EQ(ParseJson(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(JsonTest, SeesWhatFollowsANulByte) {
  EXPECT_FALSE(ParseJson(std::string("{}\0junk", 7)).ok());
}

TEST(JsonTest, BoundsTheDepth) {
  EXPECT_TRUE(ParseJson(std::string(8, '[') + std::string(8, ']')).ok());
  EXPECT_FALSE(ParseJson(std::string(9, '[') + std::string(9, ']')).ok());
  EXPECT_FALSE(ParseJson(std::string(1000000, '[')).ok());
}

TEST(JsonTest, ErrorsDoNotQuoteTheContent) {
  auto status = ParseJson(R"({"name":"canary" canary})").status();
  EXPECT_EQ(status.message().find("canary"), absl::string_view::npos) << status;
}

}  // namespace
}  // namespace bflow
