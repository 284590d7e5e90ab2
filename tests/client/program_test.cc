// The program in the test's process: flags, records, files, exit codes.
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "base/file.h"
#include "base/json.h"
#include "client/cli/commands.h"
#include "tests/client/fake_server.h"

namespace bflow::client {
namespace {

constexpr int64_t kFrames = 100;

struct Outcome {
  int exit_code = 0;
  std::string out;
  std::string err;
};

class ProgramTest : public testing::Test {
 protected:
  ProgramTest() {
    folder_ = testing::TempDir() + "bflow_program_" + std::to_string(getpid());
    EXPECT_TRUE(MakeDirectories(folder_).ok());
  }

  Outcome Run(std::vector<std::string> words) {
    words.insert(words.begin(), "bflow");
    if (words.size() > 1 && words[1] != "--version") {
      words.push_back("--server=" + server_.address());
    }
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    Outcome outcome;
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    outcome.exit_code = RunBflow(static_cast<int>(argv.size()), argv.data());
    outcome.out = testing::internal::GetCapturedStdout();
    outcome.err = testing::internal::GetCapturedStderr();
    return outcome;
  }

  std::string Path(const std::string& name) const { return folder_ + "/" + name; }

  // A record of windows of 100 frames at 125 Hz, format 16: window w holds values[w] at its start
  // and then changes; ABP (the second channel of the model) comes first in the file.
  std::string Record(const std::string& name, const std::vector<int>& values, int gain = 81,
                     bool with_data = true, int rate = 125) {
    const int64_t frames = static_cast<int64_t>(values.size()) * kFrames;
    std::string data;
    for (int64_t i = 0; i < frames; ++i) {
      const int16_t abp = static_cast<int16_t>(i % 7);
      const int16_t ecg = static_cast<int16_t>(values[static_cast<size_t>(i / kFrames)] +
                                               (i % kFrames == 50 ? 1 : 0));
      data.append(reinterpret_cast<const char*>(&abp), 2);
      data.append(reinterpret_cast<const char*>(&ecg), 2);
    }
    std::ostringstream header;
    header << name << " 2 " << rate << " " << frames << " 10:00:00\n"
           << name << ".dat 16 11(0)/mmHg 16 0 0 0 0 ABP\n"
           << name << ".dat 16 " << gain << "(29)/mV 16 0 0 0 0 II\n";
    EXPECT_TRUE(WriteFileAtomically(Path(name + ".hea"), header.str()).ok());
    if (with_data) {
      EXPECT_TRUE(WriteFileAtomically(Path(name + ".dat"), data).ok());
    }
    return Path(name);
  }

  FakeServer server_{kFrames};
  std::string folder_;
};

TEST_F(ProgramTest, ScoresARecordIntoASummaryAndACsv) {
  const std::string record = Record("one", {1, 60, 70, 2});
  const std::string csv = Path("one.csv");
  const Outcome run = Run({"score", "ecg", record + ".hea", "--out", csv});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_NE(run.out.find("ecg@3"), std::string::npos);
  EXPECT_NE(run.out.find("4 scored"), std::string::npos) << run.out;
  EXPECT_NE(run.out.find("2 (50.0%)"), std::string::npos) << run.out;
  EXPECT_NE(run.out.find("fewer than 200"), std::string::npos);
  EXPECT_NE(run.out.find("+00:00:00.800 to +00:00:02.400  (10:00:00.800 to 10:00:02.400)"),
            std::string::npos)
      << run.out;
  EXPECT_NE(run.out.find("flat_run/ABP"), std::string::npos);
  const std::string text = *ReadFile(csv, 1 << 20);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 5);
  EXPECT_NE(text.find("one,"), std::string::npos);
  EXPECT_NE(text.find(",1,100,10:00:00.800,ecg,3,"), std::string::npos) << text;
  // The model's channel order is II, ABP: the first value sent is that of II.
  EXPECT_EQ(FakeServer::FirstValues(server_.anomaly_requests[0].x()),
            (std::vector<double>{1, 60, 70, 2}));
}

TEST_F(ProgramTest, TellsWhereInTheWindowsOnRequest) {
  const std::string record = Record("where", {1, 60, 70, 2});
  const std::string csv = Path("where.csv");
  const Outcome run = Run({"score", "ecg", record, "--attribution", "--out", csv});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  // The third window starts at 1.6 s, its second segment 32 samples of 1/125 s later.
  EXPECT_NE(run.out.find("where jump/ABP@00:00:01.856=70"), std::string::npos) << run.out;
  const std::string text = *ReadFile(csv, 1 << 20);
  EXPECT_NE(text.find("top_reasons,where\r\n"), std::string::npos);
  EXPECT_NE(text.find(",jump/ABP@00:00:01.856=70\r\n"), std::string::npos) << text;
  const Outcome json = Run({"score", "ecg", record, "--attribution", "--json"});
  EXPECT_NE(json.out.find("\"where\": \"jump/ABP@00:00:01.856=70\""), std::string::npos);
}

TEST_F(ProgramTest, ABrokenRecordDoesNotStopTheOthers) {
  const std::string good = Record("good", {1, 2});
  const std::string broken = Record("broken", {1}, 81, false);
  const Outcome run = Run({"loglik", "ecg", broken, good, "--json", "--seed=4"});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_NE(run.err.find("broken"), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("line 2"), std::string::npos) << run.err;
  EXPECT_EQ(run.err.find(folder_), std::string::npos) << "no folder in a message";
  const auto document = ParseJson(run.out);
  ASSERT_TRUE(document.ok()) << run.out;
  EXPECT_EQ((*document)["seed"], 4);
  EXPECT_EQ((*document)["records"][0]["windows"], 2);
  EXPECT_EQ((*document)["failed"].size(), 1u);
  EXPECT_EQ(Run({"loglik", "ecg", broken}).exit_code, 65) << "no usable input at all";
}

TEST_F(ProgramTest, WhatDoesNotFitTheModelIsSkippedWithTheReason) {
  const std::string good = Record("good", {1});
  Outcome run = Run({"score", "ecg", Record("gain", {1}, 86), good});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_NE(run.err.find("gain"), std::string::npos);
  EXPECT_NE(run.err.find("86"), std::string::npos) << run.err;
  run = Run({"score", "ecg", Record("rate", {1}, 81, true, 250), good});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_NE(run.err.find("250 Hz"), std::string::npos) << run.err;
  EXPECT_EQ(Run({"score", "ecg", good, "--signals=II,PAP"}).exit_code, 65);
  EXPECT_EQ(Run({"score", "ecg", good, "--signals=II"}).exit_code, 64);
  EXPECT_EQ(Run({"score", "ecg", good, "--signals=II,ABP"}).exit_code, 0);
}

TEST_F(ProgramTest, MarkedWindowsAreListed) {
  const Outcome run = Run({"score", "ecg", Record("marked", {1, 99}), "--json"});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_NE(run.err.find("window 1: OUT_OF_RANGE"), std::string::npos) << run.err;
  EXPECT_EQ((*ParseJson(run.out))["marked"], 1);
}

TEST_F(ProgramTest, TimesAndHopChooseTheWindows) {
  const std::string record = Record("long", {1, 2, 3, 4, 5});
  EXPECT_EQ(Run({"loglik", "ecg", record, "--from=0:01", "--to=3.2"}).exit_code, 0);
  EXPECT_EQ(FakeServer::FirstValues(server_.likelihood_requests[0].x()),
            (std::vector<double>{3, 4}));
  EXPECT_EQ(Run({"loglik", "ecg", record, "--hop=200"}).exit_code, 0);
  EXPECT_EQ(FakeServer::FirstValues(server_.likelihood_requests[1].x()),
            (std::vector<double>{1, 3, 5}));
  EXPECT_EQ(Run({"loglik", "ecg", record, "--from=9:00:00"}).exit_code, 65);
  EXPECT_EQ(Run({"loglik", "ecg", record, "--from=soon"}).exit_code, 64);
}

TEST_F(ProgramTest, SamplesGoToAnNpyFileThatCanBeScored) {
  const std::string file = Path("x.npy");
  Outcome run = Run({"sample", "ecg@3", "--num=3", "--seed=9", "--out=" + file});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_NE(run.out.find("seed 9"), std::string::npos);
  run = Run({"loglik", "ecg", file, "--seed=1"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(server_.likelihood_requests[0].x().dtype(), v1::DATA_TYPE_INT16);
  EXPECT_EQ(FakeServer::FirstValues(server_.likelihood_requests[0].x()),
            (std::vector<double>{0, 1, 2}));
  run = Run({"sample", "ecg", "--num", "1", "--unit", "code"});
  EXPECT_EQ(run.out.substr(0, run.out.find('\n')), "sample,step,II,ABP");
}

TEST_F(ProgramTest, ReportsModelsInfoAndHealth) {
  EXPECT_NE(Run({"models"}).out.find("ecg"), std::string::npos);
  const Outcome info = Run({"info", "ecg"});
  EXPECT_NE(info.out.find("ABP"), std::string::npos);
  EXPECT_NE(info.out.find("fewer than 200"), std::string::npos);
  EXPECT_TRUE(ParseJson(Run({"info", "ecg", "--json"}).out, 16).ok());
  EXPECT_EQ(Run({"health"}).exit_code, 0);
  server_.SetReady(false);
  EXPECT_EQ(Run({"health"}).exit_code, 69);
}

TEST_F(ProgramTest, ExitCodesOfUsageAndOutput) {
  const std::string record = Record("r", {1});
  EXPECT_EQ(Run({"--version"}).exit_code, 0);
  EXPECT_NE(Run({"score", "--help"}).out.find("--alpha"), std::string::npos);
  EXPECT_EQ(Run({}).exit_code, 64);
  EXPECT_EQ(Run({"models", "--no-such-flag"}).exit_code, 64);
  EXPECT_EQ(Run({"score", "ecg", record, "--alpha=1.5"}).exit_code, 64);
  EXPECT_EQ(Run({"loglik", "ecg", record, "--draws=65"}).exit_code, 64);
  EXPECT_EQ(Run({"sample", "ecg", "--num=1", "--temperature=0"}).exit_code, 64);
  EXPECT_EQ(Run({"sample", "ecg", "--num=0"}).exit_code, 64);
  EXPECT_EQ(Run({"sample", "ecg", "--num=1", "--seed=-1"}).exit_code, 64);
  EXPECT_EQ(Run({"sample", "ecg", "--num=99999999999"}).exit_code, 64) << "more than memory holds";
  EXPECT_EQ(Run({"loglik", "ecg", record, "--hop=0"}).exit_code, 64);
  EXPECT_EQ(Run({"score", "ecg", "/"}).exit_code, 65);
  EXPECT_EQ(Run({"loglik", "ecg", record, "--out=/dev/full"}).exit_code, 73);
  EXPECT_EQ(Run({"score", "nobody", record}).exit_code, 64);
  EXPECT_EQ(Run({"score", "ecg", record, "--out=/nonexistent/x.csv"}).exit_code, 73);
  server_.failures.assign(1000, grpc::Status(grpc::UNAVAILABLE, "gone"));
  EXPECT_EQ(Run({"score", "ecg", record, "--deadline=1s"}).exit_code, 69);
}

}  // namespace
}  // namespace bflow::client
