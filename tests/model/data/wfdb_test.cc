// Every sample of the records in records/ equals what the Python package wfdb reads.
#include "model/data/wfdb.h"

#include <cmath>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace bflow {
namespace {

const std::string kFolder = "tests/model/data/records/";

struct ExpectedSignal {
  std::string record, segment, name, unit;
  int64_t start = 0, frames = 0;
  double gain = 0, baseline = 0;
  std::vector<float> codes;
};

std::vector<float> ParseRuns(const std::string& text) {
  std::vector<float> codes;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    const size_t times = word.find('x');
    const std::string value = word.substr(0, times);
    const int count = times == std::string::npos ? 1 : std::stoi(word.substr(times + 1));
    codes.insert(codes.end(), static_cast<size_t>(count),
                 value == "nan" ? std::nanf("") : std::stof(value));
  }
  return codes;
}

std::vector<ExpectedSignal> ReadExpected() {
  std::ifstream file(kFolder + "expected.txt");
  std::vector<ExpectedSignal> signals;
  for (std::string line; std::getline(file, line);) {
    std::vector<std::string> field;
    std::istringstream fields(line);
    for (std::string f; std::getline(fields, f, '\t');) field.push_back(f);
    signals.push_back({field.at(0), field.at(1), field.at(4), field.at(5), std::stoll(field.at(2)),
                       std::stoll(field.at(3)), std::stod(field.at(6)), std::stod(field.at(7)),
                       ParseRuns(field.at(8))});
  }
  return signals;
}

TEST(WfdbTest, EverySampleEqualsTheOracle) {
  const std::vector<ExpectedSignal> expected = ReadExpected();
  ASSERT_EQ(expected.size(), 54u);
  std::map<std::string, WaveformRecord> records;
  std::map<std::string, size_t> signal_index;
  for (const ExpectedSignal& want : expected) {
    SCOPED_TRACE(want.record + " " + want.segment + " " + want.name);
    if (!records.contains(want.record)) {
      auto record = ReadWfdbRecord(kFolder + want.record);
      ASSERT_TRUE(record.ok()) << record.status();
      records[want.record] = *std::move(record);
    }
    const WaveformSegment* segment = nullptr;
    for (const WaveformSegment& s : records[want.record].segments) {
      if (s.name == want.segment) segment = &s;
    }
    ASSERT_NE(segment, nullptr);
    EXPECT_EQ(segment->start_frame, want.start);
    EXPECT_EQ(segment->frames, want.frames);
    const size_t index = signal_index[want.record + want.segment]++;
    ASSERT_LT(index, segment->signals.size());
    const WaveformSignal& got = segment->signals[index];
    EXPECT_EQ(got.name, want.name);
    EXPECT_EQ(got.unit, want.unit);
    EXPECT_EQ(got.gain, want.gain);
    EXPECT_EQ(got.baseline, want.baseline);
    ASSERT_EQ(got.codes.size(), want.codes.size());
    for (size_t i = 0; i < want.codes.size(); ++i) {
      const bool same =
          std::isnan(want.codes[i]) ? std::isnan(got.codes[i]) : got.codes[i] == want.codes[i];
      ASSERT_TRUE(same) << "frame " << i << ": " << got.codes[i] << ", not " << want.codes[i];
    }
  }
  for (const auto& [name, record] : records) {
    for (const WaveformSegment& segment : record.segments) {
      EXPECT_EQ(signal_index[name + segment.name], segment.signals.size()) << segment.name;
    }
  }
}

TEST(WfdbTest, RecordFields) {
  auto cut = ReadWfdbRecord(kFolder + "cut.hea");  // the extension may be given
  ASSERT_TRUE(cut.ok()) << cut.status();
  EXPECT_EQ(cut->name, "cut");
  EXPECT_EQ(cut->frames, 5777);
  EXPECT_EQ(cut->frames_per_second, 125);
  EXPECT_EQ(cut->start_time, "2704-05-04 10:44:18.529");
  EXPECT_EQ(cut->segments.size(), 4u);

  auto rate = ReadWfdbRecord(kFolder + "gen_16");
  ASSERT_TRUE(rate.ok()) << rate.status();
  EXPECT_EQ(rate->frames_per_second, 62.4725);
  EXPECT_EQ(rate->start_time, "01:02:03.500");

  auto minutes = ReadWfdbRecord(kFolder + "gen_frames");
  ASSERT_TRUE(minutes.ok()) << minutes.status();
  EXPECT_EQ(minutes->start_time, "00:10:00.000");

  auto defaults = ReadWfdbRecord(kFolder + "gen_defaults");
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_EQ(defaults->frames_per_second, 250);
  EXPECT_EQ(defaults->start_time, std::nullopt);
  EXPECT_EQ(defaults->frames, 10);
}

TEST(WfdbTest, ConverterRangeLeavesTheInvalidCodeOut) {
  const struct {
    const char* record;
    int bits;
    double low, high;
  } cases[] = {{"gen_80", 8, -127, 127},
               {"gen_212", 12, -2047, 2047},
               {"gen_16", 16, -32767, 32767},
               {"gen_defaults", 8, -127, 127},
               {"cut", 8, -127, 127}};
  for (const auto& c : cases) {
    auto record = ReadWfdbRecord(kFolder + c.record);
    ASSERT_TRUE(record.ok()) << record.status();
    const WaveformSignal& signal = record->segments[0].signals[0];
    EXPECT_EQ(signal.resolution_bits, c.bits) << c.record;
    EXPECT_EQ(signal.input_min, c.low) << c.record;
    EXPECT_EQ(signal.input_max, c.high) << c.record;
  }
}

TEST(WfdbTest, SkewedSignalEndsWithInvalidSamples) {
  auto record = ReadWfdbRecord(kFolder + "gen_skew");
  ASSERT_TRUE(record.ok()) << record.status();
  const std::vector<float>& skewed = record->segments[0].signals[1].codes;
  ASSERT_EQ(skewed.size(), 30u);
  for (size_t i = 27; i < 30; ++i) EXPECT_TRUE(std::isnan(skewed[i]));
}

}  // namespace
}  // namespace bflow
