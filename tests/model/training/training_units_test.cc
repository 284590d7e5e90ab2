// The pieces of the trainer that need no model: schedules, presets, the command line,
// reports.
#include <cmath>
#include <cstdio>
#include <numbers>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/training/options.h"
#include "model/training/presets.h"
#include "model/training/progress.h"
#include "model/training/schedule.h"

namespace bflow {
namespace {

using ::testing::HasSubstr;

TEST(Schedule, WarmUpThenCosineToZero) {
  Schedule s{ScheduleKind::kCosine, 2e-3, 20, 1020, 1};
  EXPECT_EQ(s.RateAt(0), 0);
  EXPECT_DOUBLE_EQ(s.RateAt(5), 5e-4);
  EXPECT_DOUBLE_EQ(s.RateAt(20), 2e-3);
  EXPECT_NEAR(s.RateAt(520), 1e-3, 1e-15);
  EXPECT_NEAR(s.RateAt(270), 1e-3 * (1 + std::sqrt(0.5)), 1e-12);
  EXPECT_EQ(s.RateAt(1020), 0);
  EXPECT_EQ(s.RateAt(5000), 0);
  for (int64_t step = 20; step < 1020; ++step) EXPECT_GT(s.RateAt(step), s.RateAt(step + 1));
}

TEST(Schedule, PaperStartsAtZeroThenDecaysPerStep) {
  Preset paper = *FindPreset("waveform-paper");
  const Schedule& s = paper.settings.schedule;
  EXPECT_EQ(paper.settings.batch, 1024);
  EXPECT_EQ(paper.settings.ema_decay, 0);
  EXPECT_EQ(s.RateAt(0), 0);
  EXPECT_DOUBLE_EQ(s.RateAt(1), 1e-4);
  EXPECT_NEAR(s.RateAt(2), 1e-4 * 0.999995, 1e-18);
  EXPECT_NEAR(s.RateAt(100001), 1e-4 * std::exp(100000 * std::log(0.999995)), 1e-15);
}

TEST(Schedule, ConstantAndNames) {
  Schedule s{ScheduleKind::kConstant, 0.5, 2, 10, 1};
  EXPECT_DOUBLE_EQ(s.RateAt(1), 0.25);
  EXPECT_DOUBLE_EQ(s.RateAt(1000), 0.5);
  for (const char* name : {"constant", "cosine", "exponential"}) {
    EXPECT_EQ(ScheduleName(*ParseScheduleKind(name)), name);
  }
  EXPECT_FALSE(ParseScheduleKind("linear").ok());
}

TEST(Presets, PublishedArchitecture) {
  std::vector<LevelSpec> levels = PublishedWaveformLevels(1024, 2);
  ASSERT_EQ(levels.size(), 2u);
  for (size_t l = 0; l < 2; ++l) {
    EXPECT_EQ(levels[l].squeeze, 2);
    EXPECT_EQ(levels[l].split, l == 0);
    ASSERT_EQ(levels[l].blocks.size(), 2u);
    for (const std::vector<LayerSpec>& block : levels[l].blocks) {
      ASSERT_EQ(block.size(), 4u);
      const ButterflySpec& butterfly = std::get<ButterflySpec>(block[2]);
      EXPECT_EQ(butterfly.factors, l == 0 ? 10 : 9);
      EXPECT_TRUE(butterfly.shared);
      EXPECT_EQ(butterfly.order, ButterflyOrder::kWidestFirst);
      EXPECT_EQ(std::get<AffineCouplingSpec>(block[3]).hidden, 16);
    }
  }
}

TEST(Presets, TheDefaultWhitensAndSeesNeighbours) {
  EXPECT_EQ(Presets().front().name, kDefaultPreset);
  for (const auto& [name, kernel, hidden] :
       {std::tuple<std::string, int, int>{"waveform", 5, 24}, {"waveform-light", 3, 16}}) {
    const Preset preset = *FindPreset(name);
    EXPECT_EQ(preset.settings.batch, 32);
    EXPECT_EQ(preset.settings.schedule.learning_rate, 2e-3);
    EXPECT_EQ(preset.settings.schedule.warmup_steps, 20);
    EXPECT_EQ(preset.settings.start, TrainingStart::kNearIdentity);
    EXPECT_EQ(preset.settings.first_batch, 64);
    EXPECT_EQ(preset.settings.largest_gradient, 1e5);
    FlowSpec spec;
    WriteArchitecture(preset, 1024, 2, &spec);
    ASSERT_EQ(spec.pre.size(), 1u);
    EXPECT_EQ(std::get<WhiteningSpec>(spec.pre[0]).order, 16);
    EXPECT_EQ(spec.base, BaseKind::kStudentT);
    for (const LevelSpec& level : spec.levels) {
      for (const std::vector<LayerSpec>& block : level.blocks) {
        const Conv1dCouplingSpec& coupling = std::get<Conv1dCouplingSpec>(block.back());
        EXPECT_EQ(coupling.kernel, kernel);
        EXPECT_EQ(coupling.hidden, hidden);
        EXPECT_EQ(coupling.dilation, 2);
      }
    }
  }
  for (const char* name : {"waveform-published", "waveform-paper"}) {
    FlowSpec spec;
    WriteArchitecture(*FindPreset(name), 1024, 2, &spec);
    EXPECT_TRUE(spec.pre.empty());
    EXPECT_EQ(spec.base, BaseKind::kNormal);
    EXPECT_EQ(FindPreset(name)->settings.start, TrainingStart::kDrawn);
    EXPECT_EQ(FindPreset(name)->settings.largest_gradient, 0);
  }
}

TEST(Presets, ExactCodeLengthsHaveNoBlocks) {
  const Preset preset = *FindPreset("waveform-exact");
  EXPECT_EQ(preset.settings.batch, 16);
  EXPECT_EQ(preset.settings.schedule.learning_rate, 4e-3);
  EXPECT_EQ(preset.settings.largest_gradient, 2048);
  FlowSpec spec;
  WriteArchitecture(preset, 1024, 2, &spec);
  ASSERT_EQ(spec.pre.size(), 2u);
  EXPECT_TRUE(std::holds_alternative<LatticeSpec>(spec.pre[0]));
  EXPECT_EQ(std::get<BoxSpec>(spec.pre[1]).order, 16);
  ASSERT_EQ(spec.levels.size(), 1u);
  EXPECT_TRUE(spec.levels[0].blocks.empty());
  EXPECT_EQ(spec.base, BaseKind::kLogistic);
}

class PresetSizes : public ::testing::TestWithParam<std::string> {};

TEST_P(PresetSizes, SpecsAreValidForOtherSizesToo) {
  for (auto [window, channels] :
       {std::pair{1024, 2}, {64, 2}, {64, 1}, {96, 3}, {1000, 2}, {16, 2}}) {
    FlowSpec spec;
    spec.event_shape = {window, channels};
    spec.sampling_rate_hz = 125;
    WriteArchitecture(*FindPreset(GetParam()), window, channels, &spec);
    for (int c = 0; c < channels; ++c) {
      ChannelSpec channel;
      channel.name = absl::StrCat("c", c);
      channel.unit = "mV";
      channel.input_min = -128;
      channel.input_max = 127;
      spec.channels.push_back(channel);
    }
    if (HasLattice(spec)) {  // the data say how many codes they have
      std::get<LatticeSpec>(spec.pre[0]).sizes.assign(static_cast<size_t>(channels), 9);
    }
    EXPECT_TRUE(ValidateFlowSpec(spec).ok()) << ValidateFlowSpec(spec) << " window " << window;
  }
}

INSTANTIATE_TEST_SUITE_P(Presets, PresetSizes,
                         ::testing::Values("waveform", "waveform-exact", "waveform-paper"));

std::vector<std::string> Minimal() {
  return {
      "--preset=waveform-published", "--data", "a/b", "--signals=II,V", "--out=repo", "--model=m"};
}

TEST(Options, BothFormsAndBothSeparators) {
  std::vector<std::string> arguments = Minimal();
  for (const char* more : {"c", "--train-fraction=0.5", "--validation_fraction", "0.25", "--seed",
                           "18446744073709551615", "--checkpoint-every=10", "--sensitivity=none",
                           "--version", "7", "--ema=0.99"}) {
    arguments.push_back(more);
  }
  std::swap(arguments[3], arguments[6]);  // "--data a/b c --signals ..."
  absl::StatusOr<TrainOptions> o = ParseTrainOptions(arguments);
  ASSERT_TRUE(o.ok()) << o.status();
  EXPECT_EQ(o->data, (std::vector<std::string>{"a/b", "c"}));
  EXPECT_EQ(o->signals, (std::vector<std::string>{"II", "V"}));
  EXPECT_EQ(o->train_fraction, 0.5);
  EXPECT_EQ(o->validation_fraction, 0.25);
  EXPECT_EQ(o->calibration_fraction, 0.08);
  EXPECT_EQ(o->seed, 18446744073709551615u);
  EXPECT_EQ(o->checkpoint_every, 10);
  EXPECT_EQ(o->version, 7);
  EXPECT_EQ(o->ema, 0.99);
  EXPECT_EQ(o->sensitivity, Sensitivity::kNone);
}

TEST(Options, ErrorsNameTheFlagAndNeverTheValue) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"--preset=secret",
       "waveform, waveform-light, waveform-exact, waveform-published, waveform-paper"},
      {"--steps=secret", "--steps"},
      {"--batch=1", "--batch"},
      {"--model=Secret", "--model"},
      {"--train_fraction=1.5", "--train_fraction"},
      {"--train_fraction=0.9", "sum"},
      {"--sensitivity=secret", "--sensitivity"},
      {"--signals=A,,B", "--signals"},
      {"--schedule=secret", "--schedule"},
      {"--ema_scheme=secret", "--ema_scheme"},
      {"--ema_scheme=alternating", "--ema above 0"},
      {"--device=secret", "--device"},
      {"--typo=secret", "unknown flag --typo;"},
      {"--seed=-1", "--seed"},
      {"--steps", "--steps"},
      {"--step=1,2,3", "--step"},
  };
  for (const auto& [argument, expected] : cases) {
    std::vector<std::string> arguments = Minimal();
    arguments.push_back(argument);
    absl::StatusOr<TrainOptions> o = ParseTrainOptions(arguments);
    ASSERT_FALSE(o.ok()) << argument;
    std::string message(o.status().message());
    EXPECT_THAT(message, HasSubstr(expected));
    EXPECT_THAT(message, ::testing::Not(HasSubstr("ecret"))) << argument;
  }
  EXPECT_FALSE(ParseTrainOptions({}).ok());
  std::vector<std::string> best = Minimal();
  best.insert(best.end(), {"--validation_fraction=0", "--checkpoint=best"});
  EXPECT_FALSE(ParseTrainOptions(best).ok());
}

TEST(Options, ThePresetIsWaveformUnlessTold) {
  std::vector<std::string> arguments = Minimal();
  EXPECT_EQ(ParseTrainOptions(arguments)->preset, "waveform-published");
  arguments.erase(arguments.begin());
  ASSERT_TRUE(ParseTrainOptions(arguments).ok());
  EXPECT_EQ(ParseTrainOptions(arguments)->preset, "waveform");
}

TEST(Options, ImportTakesAnOutputAndNothingOfATraining) {
  const std::vector<std::string> import = {"--import=a.safetensors", "--out=o", "--model=m"};
  absl::StatusOr<TrainOptions> o = ParseTrainOptions(import);
  ASSERT_TRUE(o.ok()) << o.status();
  EXPECT_EQ(o->import_file, "a.safetensors");
  EXPECT_FALSE(o->version.has_value());
  for (const char* more : {"--version=3", "--licence=x", "--notes=y"}) {
    std::vector<std::string> arguments = import;
    arguments.push_back(more);
    EXPECT_TRUE(ParseTrainOptions(arguments).ok()) << more;
  }
  for (const char* more : {"--steps=3", "--data=r", "--resume", "--preset=waveform-published",
                           "--device=cpu", "--model=No", "--out="}) {
    std::vector<std::string> arguments = import;
    arguments.push_back(more);
    EXPECT_FALSE(ParseTrainOptions(arguments).ok()) << more;
  }
}

TEST(Options, HelpAndVersion) {
  EXPECT_TRUE(ParseTrainOptions({"--help"})->help);
  EXPECT_TRUE(ParseTrainOptions({"--version"})->print_version);
  EXPECT_THAT(TrainHelp(), HasSubstr("waveform-paper"));
}

TEST(Progress, ReportsBothUnits) {
  TrainingReport report;
  report.step = 50;
  report.train_nll = -3.5;
  report.validation_nll = -3.25;
  report.code_unit_offset = 4.5;
  report.windows_per_second = 1234;
  report.elapsed_seconds = 61;
  EXPECT_EQ(FormatReport(report, 100),
            "step 50/100 [##########..........] nll -3.5000 nats/dim 1.0000 nats/sample val "
            "-3.2500 1.2500 "
            "1234 windows/s 1:01 left");
  report.skipped_steps = 3;
  EXPECT_THAT(FormatReport(report, 100), HasSubstr(" 3 skipped 1234 windows/s"));
}

TEST(MetricsCsv, OneLinePerReport) {
  std::string path = ::testing::TempDir() + "/bflow_metrics_test.csv";
  {
    absl::StatusOr<MetricsCsv> csv = MetricsCsv::Create(path);
    ASSERT_TRUE(csv.ok());
    TrainingReport report;
    report.step = 3;
    report.train_nll = -1;
    report.code_unit_offset = 2;
    report.gradient_norm = 0.5;
    report.skipped_steps = 1;
    ASSERT_TRUE(csv->Write(report).ok());
  }
  EXPECT_EQ(*ReadFile(path, 1000),
            "step,learning_rate,train_nats_per_dim,train_nats_per_sample_step_unit,validation_nats_"
            "per_dim,"
            "validation_nats_per_sample_step_unit,windows_per_second,elapsed_seconds,gradient_norm,"
            "skipped_steps,train_bits_per_dim,validation_bits_per_dim\n"
            "3,0,-1,1,,,0.0,0.000,0.5,1,1.44269504,\n");
  std::remove(path.c_str());
  EXPECT_FALSE(MetricsCsv::Create("/dev/null/x").ok());
}

}  // namespace
}  // namespace bflow
