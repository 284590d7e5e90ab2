#include <gtest/gtest.h>

#include "client/cli/commands.h"
#include "client/model_name.h"
#include "client/report.h"
#include "client/row_codec.h"
#include "client/spans.h"
#include "client/time_text.h"

namespace bflow::client {
namespace {

namespace v1 = ::butterflyflow::v1;

TEST(ModelName, TakesNameVersionAndLabel) {
  EXPECT_EQ(ParseModelName("ecg")->name(), "ecg");
  EXPECT_FALSE(ParseModelName("ecg")->has_version());
  EXPECT_EQ(ParseModelName("ecg@12")->version(), 12);
  EXPECT_EQ(ParseModelName("ecg:canary")->label(), "canary");
  for (const char* bad : {"", "@1", "ecg@", "ecg@0", "ecg@-1", "ecg@x", "ecg:", "ecg:a:b"}) {
    EXPECT_FALSE(ParseModelName(bad).ok()) << bad;
  }
}

TEST(ModelName, ChoosesStableThenTheNewestReadyVersion) {
  v1::ModelInfo info;
  for (int version = 1; version <= 3; ++version) {
    v1::VersionInfo* v = info.add_versions();
    v->set_version(version);
    v->set_state(version == 3 ? v1::VERSION_STATE_FAILED : v1::VERSION_STATE_READY);
  }
  info.mutable_versions(2)->set_reason("self-test");
  EXPECT_EQ(ChooseVersion(info, *ParseModelName("m"))->version(), 2);
  info.mutable_versions(0)->add_labels("stable");
  EXPECT_EQ(ChooseVersion(info, *ParseModelName("m"))->version(), 1);
  EXPECT_EQ(ChooseVersion(info, *ParseModelName("m:stable"))->version(), 1);
  EXPECT_EQ(ChooseVersion(info, *ParseModelName("m@2"))->version(), 2);
  const auto failed = ChooseVersion(info, *ParseModelName("m@3"));
  EXPECT_EQ(failed.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(failed.status().message().find("self-test"), absl::string_view::npos);
  EXPECT_EQ(ChooseVersion(info, *ParseModelName("m@9")).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(ChooseVersion(info, *ParseModelName("m:x")).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(TimeText, ParsesOffsets) {
  EXPECT_DOUBLE_EQ(*ParseOffset("2:19:10"), 8350);
  EXPECT_DOUBLE_EQ(*ParseOffset("1:30.5"), 90.5);
  EXPECT_DOUBLE_EQ(*ParseOffset("5400"), 5400);
  for (const char* bad : {"", "1:60", "1:2:3:4", "-1", "1e3", "a", "1.5:00", "nan"}) {
    EXPECT_FALSE(ParseOffset(bad).ok()) << bad;
  }
}

TEST(TimeText, FormatsOffsetsAndWallClock) {
  EXPECT_EQ(FormatOffset(8350.0004), "02:19:10.000");
  EXPECT_EQ(FormatOffset(360000.25), "100:00:00.250");
  EXPECT_EQ(AddToStartTime("02:34:12.811", 8.192), "02:34:21.003");
  EXPECT_EQ(AddToStartTime("23:59:59.500", 1), "00:00:00.500+1d");
  EXPECT_EQ(AddToStartTime("2024-02-28 23:00:00", 7200), "2024-02-29 01:00:00.000");
  EXPECT_EQ(AddToStartTime(std::nullopt, 7200), "");
}

TEST(TimeText, ParsesDeadlines) {
  EXPECT_EQ(*ParseDeadline("30s"), absl::Seconds(30));
  EXPECT_EQ(*ParseDeadline("500ms"), absl::Milliseconds(500));
  EXPECT_EQ(*ParseDeadline("2"), absl::Seconds(2));
  for (const char* bad : {"", "0s", "-1s", "soon", "inf"}) EXPECT_FALSE(ParseDeadline(bad).ok());
}

TEST(RowCodec, SendsCodesInTheSmallestTypeThatHoldsThem) {
  const std::vector<int64_t> shape = {2, 1};
  const std::vector<v1::DataType> both = {v1::DATA_TYPE_INT16, v1::DATA_TYPE_UINT8};
  const std::vector<v1::DataType> int16 = {v1::DATA_TYPE_INT16};
  const std::vector<float> codes = {-127, 3, 0, 32767}, pixels = {0, 255, 7, 1};
  EXPECT_EQ(SmallestType(codes, both), v1::DATA_TYPE_INT16);
  EXPECT_EQ(SmallestType(pixels, both), v1::DATA_TYPE_UINT8);
  EXPECT_EQ(SmallestType(pixels, int16), v1::DATA_TYPE_INT16);
  EXPECT_EQ(SmallestType(pixels, {}), v1::DATA_TYPE_FP32);
  for (float other : {0.25f, 32768.0f, std::nanf("")}) {
    EXPECT_EQ(SmallestType(std::vector<float>{other}, both), v1::DATA_TYPE_FP32);
  }
  const v1::Tensor tensor = EncodeRows(codes, shape, v1::DATA_TYPE_INT16);
  EXPECT_EQ(tensor.data(), std::string("\x81\xff\x03\x00\x00\x00\xff\x7f", 8));
  EXPECT_EQ(tensor.shape(0), 2);
  EXPECT_EQ(EncodeRows(pixels, shape, v1::DATA_TYPE_UINT8).data(), std::string("\0\xff\7\1", 4));
  EXPECT_EQ(EncodeRows(codes, shape, v1::DATA_TYPE_FP32).data().size(), 16u);
}

TEST(RowCodec, RefusesRepliesOfTheWrongSize) {
  v1::Tensor tensor;
  tensor.set_dtype(v1::DATA_TYPE_FP64);
  tensor.set_data(std::string(15, '\0'));
  EXPECT_FALSE(DecodeScores(tensor, 2, "score").ok());
  tensor.mutable_data()->push_back('\0');
  EXPECT_TRUE(DecodeScores(tensor, 2, "score").ok());
  tensor.set_dtype(v1::DATA_TYPE_INT16);
  EXPECT_FALSE(DecodeScores(tensor, 8, "score").ok());
}

RowAnomaly Row(double score, bool flagged, uint8_t status = 0) {
  RowAnomaly row;
  row.score = score;
  row.flagged = flagged;
  row.likelihood.status = status;
  row.p_value = 1 / (1 + score);
  row.reasons[0] = {1, score};
  return row;
}

TEST(Spans, MergesFlaggedWindowsThatTouch) {
  AnomalyResult result;
  result.feature_names = {"step/II", "flat_run/ABP"};
  std::vector<WindowPlace> places;
  // Windows of 100; a gap in the record before the fifth; the last one was not scored.
  const std::vector<int64_t> starts = {0, 100, 200, 300, 500, 600, 700};
  for (const int64_t start : starts) places.push_back({"s", 0, start, false});
  result.rows = {Row(1, false), Row(7, true),  Row(9, true),    Row(8, true),
                 Row(5, true),  Row(1, false), Row(99, true, 1)};
  const std::vector<Span> spans = MergeFlagged(0, places, result, 100);
  ASSERT_EQ(spans.size(), 2u);
  EXPECT_EQ(spans[0].begin, 100);
  EXPECT_EQ(spans[0].end, 400);
  EXPECT_EQ(spans[0].windows, 3);
  EXPECT_DOUBLE_EQ(spans[0].score, 9);
  EXPECT_DOUBLE_EQ(spans[0].p_value, 0.1);
  EXPECT_EQ(spans[0].reasons, "flat_run/ABP=9");
  EXPECT_EQ(spans[1].begin, 500);
  const std::vector<Span> top = TopSpans({spans[1], spans[0]}, 1);
  ASSERT_EQ(top.size(), 1u);
  EXPECT_EQ(top[0].begin, 100);
}

TEST(Report, CsvHasThePinnedColumnsAndQuotes) {
  EXPECT_EQ(CsvField("a,\"b\""), "\"a,\"\"b\"\"\"");
  PinnedModel model;
  model.info.set_name("ecg");
  model.version.set_version(3);
  model.version.set_manifest_sha256("ab");
  ScoredRecord record;
  record.input.record = "r,1";
  record.input.start_time = "10:00:00.000";
  record.input.frames_per_second = 125;
  record.input.window_frames = 100;
  record.input.places = {{"seg", 4, 250, true}};
  record.result.feature_names = {"step/II", "flat_run/ABP"};
  record.result.rows = {Row(3, true)};
  EXPECT_EQ(
      ScoreCsv(model, {record}),
      "record,segment,window,start_sample,start_time,model,version,manifest_sha256,row_status,"
      "constant_channel,log_prob,nats_per_dim,bits_per_dim,score,p_value,flagged,score_ratio,"
      "nll_rank,typicality,top_reasons\r\n"
      "\"r,1\",seg,4,250,10:00:02.000,ecg,3,ab,OK,1,0,0,0,3,0.25,1,0,0,typical,"
      "flat_run/ABP=3\r\n");
}

TEST(Report, SummarisesScoredWindowsOnly) {
  ScoredRecord record;
  record.input.window_frames = 100;
  record.input.places = {{"", 0, 0, false}, {"", 1, 100, true}, {"", 2, 200, false}};
  record.result.rows = {Row(1, false), Row(99, true, 3), Row(24, true)};
  const ScoreSummary s = Summarise({record});
  EXPECT_EQ(s.windows, 3);
  EXPECT_EQ(s.marked, 1);
  EXPECT_EQ(s.constant, 1);
  EXPECT_EQ(s.flagged, 1);
  EXPECT_DOUBLE_EQ(s.p_min, 0.04);
  EXPECT_DOUBLE_EQ(s.p_median, 0.27);
  EXPECT_DOUBLE_EQ(s.p_share_005, 0.5);
}

TEST(Arguments, UnderscoresOfFlagNamesAreDashes) {
  std::vector<std::string> words = {"bflow", "x_y", "--a_b=c_d", "--e_f", "g_h", "--", "--i_j"};
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  EXPECT_EQ(NormaliseArguments(static_cast<int>(argv.size()), argv.data()),
            (std::vector<std::string>{"x_y", "--a-b=c_d", "--e-f", "g_h", "--", "--i_j"}));
}

}  // namespace
}  // namespace bflow::client
