// Parts by time, extremes and random windows, on records made in memory.
#include "model/training/training_data.h"

#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bflow {
namespace {

using ::testing::HasSubstr;

WaveformSignal Signal(const std::string& name, int64_t frames, float first, float slope) {
  WaveformSignal signal;
  signal.name = name;
  signal.unit = "mV";
  signal.gain = 26;
  signal.input_min = -32767;
  signal.input_max = 32767;
  for (int64_t t = 0; t < frames; ++t) {
    signal.codes.push_back(first + slope * static_cast<float>(t));
  }
  return signal;
}

// Codes that tell their frame: A[t] = t, B[t] = -2 t.
WaveformRecord Ramp(const std::string& name, int64_t frames) {
  WaveformRecord record;
  record.name = name;
  record.frames_per_second = 125;
  record.frames = frames;
  record.segments.push_back(
      {name, 0, frames, {Signal("A", frames, 0, 1), Signal("B", frames, 0, -2)}});
  return record;
}

TrainingData::Request Request(double train, double validation, double calibration) {
  TrainingData::Request request;
  request.signals = {"A", "B"};
  request.window = 10;
  request.hop = 10;
  request.fractions = {train, validation, calibration};
  return request;
}

TEST(TrainingData, PartsFollowEachOtherAndDropTheIncompleteWindow) {
  // 127 windows and 4 frames: the quality figures' split, floor(0.8 * 127) = 101 to train.
  absl::StatusOr<TrainingData> data = TrainingData::Create({Ramp("r", 1274)}, Request(0.8, 0, 0));
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->windows(DataPart::kTrain).size(), 101u);
  EXPECT_TRUE(data->windows(DataPart::kValidation).empty());
  EXPECT_TRUE(data->windows(DataPart::kCalibration).empty());
  EXPECT_EQ(data->windows(DataPart::kTest).size(), 26u);
  EXPECT_EQ(data->windows(DataPart::kTest)[0].window.start_frame, 1010);
  // Extremes of the training part alone.
  EXPECT_EQ(data->channels()[0].lo, 0);
  EXPECT_EQ(data->channels()[0].hi, 1009);
  EXPECT_EQ(data->channels()[1].lo, -2018);
  EXPECT_EQ(data->channels()[1].hi, 0);
}

TEST(TrainingData, AFifthOfTheWindowsIsLeftByTheDefaultFractions) {
  absl::StatusOr<TrainingData> data =
      TrainingData::Create({Ramp("r", 1000)}, Request(0.64, 0.08, 0.08));
  ASSERT_TRUE(data.ok());
  EXPECT_EQ(data->windows(DataPart::kTrain).size(), 64u);
  EXPECT_EQ(data->windows(DataPart::kValidation).size(), 8u);
  EXPECT_EQ(data->windows(DataPart::kCalibration).size(), 8u);
  EXPECT_EQ(data->windows(DataPart::kTest).size(), 20u);
}

TEST(TrainingData, RecordsFollowEachOther) {
  absl::StatusOr<TrainingData> data =
      TrainingData::Create({Ramp("r", 100), Ramp("s", 100)}, Request(0.75, 0.05, 0));
  ASSERT_TRUE(data.ok());
  EXPECT_EQ(data->windows(DataPart::kTrain).size(), 15u);
  ASSERT_EQ(data->windows(DataPart::kTest).size(), 4u);
  EXPECT_EQ(data->windows(DataPart::kTest)[0].record, 1u);
  EXPECT_EQ(data->windows(DataPart::kTest)[0].window.start_frame, 60);
}

TEST(TrainingData, OverlappingWindowsLieWhollyInOnePart) {
  TrainingData::Request request = Request(0.5, 0, 0);
  request.hop = 3;
  absl::StatusOr<TrainingData> data = TrainingData::Create({Ramp("r", 100)}, request);
  ASSERT_TRUE(data.ok());
  for (const RecordWindow& w : data->windows(DataPart::kTrain)) EXPECT_LE(w.window.start_frame, 40);
  for (const RecordWindow& w : data->windows(DataPart::kTest)) EXPECT_GE(w.window.start_frame, 50);
  EXPECT_EQ(data->windows(DataPart::kTrain).size(), 14u);  // 0, 3, ..., 39
  EXPECT_EQ(data->windows(DataPart::kTest).size(), 14u);   // 51, 54, ..., 90
}

TEST(TrainingData, RandomWindowsAreConsecutiveAndInTheTrainingPart) {
  absl::StatusOr<TrainingData> data = TrainingData::Create({Ramp("r", 100)}, Request(0.5, 0, 0));
  ASSERT_TRUE(data.ok());
  std::mt19937_64 generator(3);
  std::vector<float> codes(20);
  std::vector<int> seen(41);
  for (int i = 0; i < 2000; ++i) {
    ASSERT_TRUE(data->DrawTrainingWindow(generator, codes.data()).ok());
    int begin = static_cast<int>(codes[0]);
    ASSERT_LE(begin, 40);
    ++seen[static_cast<size_t>(begin)];
    for (int t = 0; t < 10; ++t) {
      EXPECT_EQ(codes[static_cast<size_t>(2 * t)], static_cast<float>(begin + t));
      EXPECT_EQ(codes[static_cast<size_t>(2 * t + 1)], static_cast<float>(-2 * (begin + t)));
    }
  }
  for (int count : seen) EXPECT_GT(count, 15);  // 49 expected
}

TEST(TrainingData, RandomStretchesReachTheEndOfTheTrainingPart) {
  absl::StatusOr<TrainingData> data = TrainingData::Create({Ramp("r", 100)}, Request(0.5, 0, 0));
  ASSERT_TRUE(data.ok());
  std::mt19937_64 generator(3);
  std::vector<float> codes(8);
  std::vector<int> seen(47);
  for (int i = 0; i < 2000; ++i) {
    data->DrawTrainingStretch(generator, 4, codes.data());
    const int begin = static_cast<int>(codes[0]);
    ASSERT_LE(begin, 46);
    ++seen[static_cast<size_t>(begin)];
    EXPECT_EQ(codes[6], static_cast<float>(begin + 3));
  }
  for (int count : seen) EXPECT_GT(count, 12);  // 43 expected
}

TEST(TrainingData, ConstantWindowsAreCountedButNeverDrawnOrGathered) {
  WaveformRecord record = Ramp("r", 100);
  std::vector<float>& a = record.segments[0].signals[0].codes;
  std::fill(a.begin(), a.begin() + 30, 7.0f);
  absl::StatusOr<TrainingData> data = TrainingData::Create({record}, Request(0.5, 0, 0.5));
  ASSERT_TRUE(data.ok());
  EXPECT_EQ(data->windows(DataPart::kTrain).size(), 5u);
  int64_t rows = 0;
  data->Gather(DataPart::kTrain, true, 100, &rows);
  EXPECT_EQ(rows, 2);
  std::vector<float> all = data->Gather(DataPart::kTrain, false, 3, &rows);
  EXPECT_EQ(rows, 3);
  EXPECT_EQ(all.size(), 60u);
  std::mt19937_64 generator(3);
  std::vector<float> codes(20);
  for (int i = 0; i < 500; ++i) {
    ASSERT_TRUE(data->DrawTrainingWindow(generator, codes.data()).ok());
    EXPECT_NE(codes[0], codes[18]);
  }
}

TEST(TrainingData, TheScalingOfMostFramesIsTheModels) {
  WaveformRecord record = Ramp("r", 100);
  WaveformSegment other = record.segments[0];
  other.name = "other";
  other.start_frame = 100;
  other.signals[0].gain = 52;
  other.frames = 500;
  for (WaveformSignal& signal : other.signals) signal.codes.resize(500, 3);
  for (int64_t t = 0; t < 500; ++t) other.signals[0].codes[static_cast<size_t>(t)] = float(t % 7);
  record.segments.push_back(other);
  record.frames = 600;
  absl::StatusOr<TrainingData> data = TrainingData::Create({record}, Request(1, 0, 0));
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->channels()[0].gain, 52);
  EXPECT_EQ(data->channels()[1].gain, 26);
  EXPECT_EQ(data->windows(DataPart::kTrain).size(), 50u);
  ASSERT_EQ(data->skipped().size(), 1u);
  EXPECT_THAT(data->skipped()[0], HasSubstr("gain of A"));
}

TEST(TrainingData, RecordsThatDoNotFitAreListedAndTheOthersUsed) {
  WaveformRecord gain = Ramp("gain", 90), slow = Ramp("slow", 90), lead = Ramp("lead", 90);
  gain.segments[0].signals[1].gain = 27;
  slow.frames_per_second = 250;
  lead.segments[0].signals[0].name = "C";
  absl::StatusOr<TrainingData> data =
      TrainingData::Create({slow, gain, Ramp("r", 100), lead}, Request(1, 0, 0));
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_THAT(data->rejected(), ::testing::ElementsAre(HasSubstr("record slow: 250 frames"),
                                                       HasSubstr("record gain: gain of B"),
                                                       HasSubstr("record lead: no signal A")));
  EXPECT_EQ(data->windows(DataPart::kTrain).size(), 10u);
}

TEST(TrainingData, AStepDividesTheDistancesOfCodes) {
  TrainingData::Request request = Request(0.5, 0, 0);
  request.step = {1, 2};
  EXPECT_TRUE(TrainingData::Create({Ramp("r", 100)}, request).ok());
  request.step = {2};  // the codes of A are one apart
  const absl::Status status = TrainingData::Create({Ramp("r", 100)}, request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("signal A: its codes are no whole steps"));
}

TEST(TrainingData, ErrorsSayWhatIsWrong) {
  auto message = [](absl::StatusOr<TrainingData> data) {
    return std::string(data.status().message());
  };
  TrainingData::Request request = Request(0.8, 0, 0);
  request.signals = {"A", "C"};
  EXPECT_THAT(message(TrainingData::Create({Ramp("r", 100)}, request)), HasSubstr("signal C"));

  EXPECT_THAT(message(TrainingData::Create({Ramp("r", 9)}, Request(0.8, 0, 0))),
              HasSubstr("10 samples"));

  WaveformRecord flat = Ramp("r", 100);
  for (float& v : flat.segments[0].signals[1].codes) v = 4;
  EXPECT_THAT(message(TrainingData::Create({flat}, Request(0.8, 0, 0))),
              HasSubstr("signal B: never changes"));
}

}  // namespace
}  // namespace bflow
