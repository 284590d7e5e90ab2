#include <string>

#include "base/json.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/checkpoint/calibration.h"
#include "model/checkpoint/checkpoint_files.h"
#include "model/checkpoint/manifest.h"
#include "tests/model/checkpoint/small_checkpoint.h"

namespace bflow {
namespace {

using testing::HasSubstr;

TEST(CalibrationTest, RoundTripWithAttributionAndWithout) {
  Calibration c = SmallCalibration(3);
  auto parsed = ParseCalibration(CalibrationToJson(c));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(CalibrationToJson(*parsed), CalibrationToJson(c));
  EXPECT_EQ(parsed->n(), 3);
  EXPECT_FALSE(parsed->attribution.has_value());
  c.attribution = AttributionTables{32, {{{1, 2}, {3, 4}, {5, 6}}}, {{{7, 8}, {9, 10}, {11, 12}}}};
  parsed = ParseCalibration(CalibrationToJson(c));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(CalibrationToJson(*parsed), CalibrationToJson(c));
  ASSERT_TRUE(parsed->attribution.has_value());
  EXPECT_EQ(parsed->attribution->spread[2][1], 12);
}

TEST(CalibrationTest, AttributionIsReadStrictly) {
  Calibration c = SmallCalibration(3);
  c.attribution = AttributionTables{32, {{{1, 2}, {3, 4}, {5, 6}}}, {{{7, 8}, {9, 10}, {11, 12}}}};
  const std::pair<const char*, const char*> cases[] = {{"/attribution", "1"},
                                                       {"/attribution/stride", "31"},
                                                       {"/attribution/jump", "1"},
                                                       {"/attribution/jump/median", "[1]"},
                                                       {"/attribution/flat_run/spread/0", "0"},
                                                       {"/attribution/gradient/median/1", "\"a\""},
                                                       {"/attribution/surprise", "1"},
                                                       {"/attribution/jump/surprise", "1"}};
  for (const auto& [path, value] : cases) {
    Json json = Json::parse(CalibrationToJson(c));
    json[Json::json_pointer(path)] = Json::parse(value);
    const auto parsed = ParseCalibration(json.dump());
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << path;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("attribution")) << path;
  }
}

TEST(CalibrationTest, RefusesNamingTheField) {
  const std::pair<const char*, const char*> cases[] = {{"/n", "4"},
                                                       {"/alpha", "0"},
                                                       {"/alpha", "1"},
                                                       {"/scores/0", "2"},
                                                       {"/nll/0", "\"a\""},
                                                       {"/scale/1", "0"},
                                                       {"/mean", "[0]"},
                                                       {"/inverse_covariance/0/1", "0.5"},
                                                       {"/noise", "\"u\""},
                                                       {"/score_definition", "\"flow_quality_v9\""},
                                                       {"/surprise", "1"},
                                                       {"/feature_names/1", "\"feature/0\""},
                                                       {"/format", "0"},
                                                       {"/reference_stddev", "-1"},
                                                       {"/alpha", "0.2499"},
                                                       {"/centre/0", "null"},
                                                       {"/inverse_covariance/2/2", "-2"}};
  for (const auto& [pointer, value] : cases) {
    Json json = Json::parse(CalibrationToJson(SmallCalibration(3)));
    json[Json::json_pointer(pointer)] = Json::parse(value);
    auto status = ParseCalibration(json.dump()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << pointer;
    const std::string field = Json::json_pointer(pointer).to_string().substr(1);
    const std::string top = field.substr(0, field.find('/'));
    const std::string named = top == "n" ? "scores" : top;  // n is compared with the lists
    EXPECT_THAT(std::string(status.message()), HasSubstr(named)) << pointer;
  }
}

TEST(CalibrationTest, TheDefinitionOfTheScoreIsThatOfTheFlow) {
  FlowSpec spec;
  spec.event_shape = {32, 2};
  spec.channels.resize(2);
  spec.levels.resize(1);
  spec.levels[0].blocks = {{AffineCouplingSpec{}}};
  Calibration calibration;
  calibration.feature_names.resize(1 + 1 + 3 * 2);  // level, coupling, codes
  EXPECT_TRUE(CheckCalibrationAgainst(spec, calibration).ok());
  calibration.score_definition = "flow_quality_v2";
  EXPECT_THAT(std::string(CheckCalibrationAgainst(spec, calibration).message()),
              HasSubstr("score_definition"));
  spec.pre = {WhiteningSpec{}};
  EXPECT_THAT(std::string(CheckCalibrationAgainst(spec, calibration).message()),
              HasSubstr("feature_names"));
  calibration.feature_names.resize(1 + 1 + 3 * 2 + 2);  // and the residuals of each channel
  EXPECT_TRUE(CheckCalibrationAgainst(spec, calibration).ok());
  calibration.score_definition = "flow_quality_v1";
  EXPECT_FALSE(CheckCalibrationAgainst(spec, calibration).ok());
}

TEST(ManifestTest, KeepsNumbersOfTheCardAsText) {
  const std::string hash(64, 'a');
  auto manifest =
      ParseManifest(R"({"format":1,"files":[{"name":"model.safetensors","size":10,"sha256":")" +
                    hash + R"("}],"card":{"hours":1.5,"signals":["II","V"],"notes":"x"}})");
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->card.at("hours"), "1.5");
  EXPECT_EQ(manifest->card.at("signals"), R"(["II","V"])");
  auto again = ParseManifest(ManifestToJson(*manifest));
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->card, manifest->card);
  EXPECT_EQ(again->files[0].size, 10);
}

TEST(ManifestTest, NamesAreAClosedList) {
  const std::string hash(64, 'a');
  for (const char* name :
       {"../model.safetensors", "/etc/passwd", "manifest.json", "", "model%2esafetensors",
        "model.safetensors\\u0000", "MODEL.SAFETENSORS"}) {
    auto status = ParseManifest(std::string(R"({"format":1,"files":[{"name":")") + name +
                                R"(","size":10,"sha256":")" + hash + R"("}]})")
                      .status();
    EXPECT_THAT(std::string(status.message()), HasSubstr("files[0].name: expected")) << name;
  }
}

TEST(ManifestTest, NothingFollowsTheObjectAndKeysAreBounded) {
  EXPECT_FALSE(ParseManifest(std::string(R"({"format":1,"files":[]})") + '\0' + "x").ok());
  EXPECT_FALSE(ParseManifest(R"({"format":1,"files":[]} {})").ok());
  EXPECT_FALSE(ParseManifest(R"({"format":1,"format":1,"files":[]})").ok());
  std::string many = "{";
  for (int i = 0; i < 70000; ++i) many += "\"k" + std::to_string(i) + "\":0,";
  many += "\"z\":0}";
  EXPECT_THAT(std::string(ParseManifest(many).status().message()), HasSubstr("keys"));
}

}  // namespace
}  // namespace bflow
