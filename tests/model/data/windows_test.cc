#include "model/data/windows.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace bflow {
namespace {

WaveformSignal Signal(const std::string& name, double gain, std::vector<float> codes) {
  WaveformSignal signal;
  signal.name = name;
  signal.unit = "mV";
  signal.gain = gain;
  signal.codes = std::move(codes);
  return signal;
}

// Segment a (frames 0-9): II invalid at 3, V at 9. A gap of 5 frames. b: no V. c: another gain.
WaveformRecord Record() {
  const float nan = std::nanf("");
  WaveformRecord record;
  record.name = "r";
  record.frames = 27;
  record.segments.push_back({"a",
                             0,
                             10,
                             {Signal("V", 60, {0, 10, 20, 30, 40, 50, 60, 70, 80, nan}),
                              Signal("II", 81, {0, 1, 2, nan, 4, 5, 6, 7, 8, 9})}});
  record.segments.push_back({"b", 15, 4, {Signal("II", 81, {1, 2, 3, 4})}});
  record.segments.push_back(
      {"c", 19, 4, {Signal("II", 86, {1, 2, 3, 4}), Signal("V", 60, {1, 2, 3, 4})}});
  record.segments.push_back(
      {"d", 23, 4, {Signal("II", 81, {5, 5, 5, 5}), Signal("V", 60, {1, 2, 3, 4})}});
  return record;
}

const std::vector<ChannelRequest> kScaled = {{"II", true, 81, 0}, {"V", true, 60, 0}};

TEST(WindowsTest, RunsEndAtInvalidFramesAndSegments) {
  const ChannelSelection selection = SelectChannels(Record(), kScaled);
  ASSERT_EQ(selection.runs.size(), 3u);
  const int64_t want[3][3] = {{0, 0, 3}, {0, 4, 5}, {3, 0, 4}};
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(selection.runs[i].segment, static_cast<size_t>(want[i][0]));
    EXPECT_EQ(selection.runs[i].begin, want[i][1]);
    EXPECT_EQ(selection.runs[i].frames, want[i][2]);
  }
  ASSERT_EQ(selection.skipped.size(), 2u);
  EXPECT_EQ(selection.skipped[0].segment, "b");
  EXPECT_EQ(selection.skipped[0].reason, "no signal V");
  EXPECT_EQ(selection.skipped[1].segment, "c");
  EXPECT_EQ(selection.skipped[1].reason, "gain of II is 86, the model takes 81");
}

TEST(WindowsTest, ScalingIsOnlyCheckedWhenAsked) {
  EXPECT_EQ(SelectChannels(Record(), {{"II"}, {"V"}}).skipped.size(), 1u);
  const ChannelSelection baseline = SelectChannels(Record(), {{"II", true, 81, 3}});
  ASSERT_EQ(baseline.skipped.size(), 4u);
  EXPECT_EQ(baseline.skipped[0].reason, "baseline of II is 0, the model takes 3");
}

TEST(WindowsTest, GridStartsAnewAtEachRun) {
  const WaveformRecord record = Record();
  const ChannelSelection selection = SelectChannels(record, kScaled);
  const std::vector<Window> windows = CutWindows(record, selection, 2, 2);
  ASSERT_EQ(windows.size(), 5u);
  const int64_t starts[] = {0, 4, 6, 23, 25};
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ(windows[i].start_frame, starts[i]);
  EXPECT_EQ(windows[3].begin, 0);
  EXPECT_EQ(CutWindows(record, selection, 2, 1).size(), 2u + 4u + 3u);
  EXPECT_EQ(CutWindows(record, selection, 2, int64_t{1} << 62).size(), 3u);
  EXPECT_EQ(CutWindows(record, selection, 6, 6).size(), 0u);
}

TEST(WindowsTest, WindowsAreTimeMajorInTheOrderOfTheRequest) {
  const WaveformRecord record = Record();
  const ChannelSelection selection = SelectChannels(record, kScaled);
  std::vector<float> window(6);
  CopyWindow(record, selection, 0, 5, 3, window.data());
  EXPECT_EQ(window, (std::vector<float>{5, 50, 6, 60, 7, 70}));
  EXPECT_EQ(ConstantChannels(window.data(), 3, 2), (std::vector<bool>{false, false}));
  CopyWindow(record, selection, 3, 0, 3, window.data());
  EXPECT_EQ(ConstantChannels(window.data(), 3, 2), (std::vector<bool>{true, false}));
}

}  // namespace
}  // namespace bflow
