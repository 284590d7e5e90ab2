// The programs end to end on the GPU: bflow-train --device=cuda writes a model, bflow-server
// --device=cuda serves it and the shipped one, bflow scores a record through both a GPU and a CPU
// server, and the numbers agree.
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/gpu/build_folder.h"

namespace bflow {
namespace {

using ::testing::HasSubstr;
constexpr char kRecord[] = "deploy/records/3975656_0006";

class GpuPrograms : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/bflow_gpu_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override {
    for (const pid_t server : servers_) {
      kill(server, SIGKILL);
      waitpid(server, nullptr, 0);
    }
    std::filesystem::remove_all(folder_);
  }

  // Output goes to NAME.out and NAME.err.
  pid_t Start(const std::string& name, const std::string& program,
              std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), BuildFolder() + "/bin/" + program);
    std::vector<char*> argv;
    for (std::string& a : arguments) argv.push_back(a.data());
    argv.push_back(nullptr);
    const std::string out = folder_ + "/" + name + ".out", err = folder_ + "/" + name + ".err";
    const pid_t child = fork();
    if (child == 0) {
      if (freopen(out.c_str(), "w", stdout) == nullptr ||
          freopen(err.c_str(), "w", stderr) == nullptr) {
        _exit(99);
      }
      execv(argv[0], argv.data());
      _exit(98);
    }
    return child;
  }
  int Run(const std::string& name, const std::string& program,
          const std::vector<std::string>& arguments) const {
    int status = 0;
    waitpid(Start(name, program, arguments), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  std::string Text(const std::string& file) const {
    const absl::StatusOr<std::string> text = ReadFile(folder_ + "/" + file, 64 << 20);
    return text.ok() ? *text : "";
  }

  // The address of a server that is ready; empty if it did not get there.
  std::string Serve(const std::string& device, const std::string& repository) {
    const std::string name = "server_" + device;
    const pid_t server = Start(name, "bflow-server",
                               {"--model_repository=" + repository, "--device=" + device,
                                "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0"});
    servers_.push_back(server);
    for (int i = 0; i < 3000 && waitpid(server, nullptr, WNOHANG) == 0; ++i) {
      std::istringstream lines(Text(name + ".err"));
      for (std::string line; std::getline(lines, line);) {
        const std::string key = "\"listen\":\"";
        const size_t at = line.find(key);
        if (line.find("\"event\":\"ready\"") == std::string::npos || at == std::string::npos)
          continue;
        return line.substr(at + key.size(), line.find('"', at + key.size()) - at - key.size());
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    ADD_FAILURE() << "no server on " << device << ": " << Text(name + ".err");
    return "";
  }

  // (window, column) -> number of the CSV of `bflow score`.
  std::map<std::pair<size_t, std::string>, double> Scores(const std::string& address,
                                                          const std::string& model) const {
    EXPECT_EQ(
        Run("score", "bflow",
            {"score", model, kRecord, "--server=" + address, "--out=" + folder_ + "/scores.csv"}),
        0)
        << Text("score.err");
    std::istringstream lines(Text("scores.csv"));
    std::vector<std::string> header;
    std::map<std::pair<size_t, std::string>, double> scores;
    size_t row = 0;
    for (std::string line; std::getline(lines, line); ++row) {
      std::istringstream cells(line);
      size_t column = 0;
      for (std::string cell; std::getline(cells, cell, ','); ++column) {
        if (row == 0) {
          header.push_back(cell);
        } else if (column < header.size() &&
                   (header[column] == "log_prob" || header[column] == "score" ||
                    header[column] == "p_value")) {
          scores[{row, header[column]}] = std::atof(cell.c_str());
        }
      }
    }
    return scores;
  }
  void ExpectSameScores(const std::string& repository, const std::string& model) {
    const std::string gpu = Serve("cuda", repository), cpu = Serve("cpu", repository);
    ASSERT_FALSE(gpu.empty() || cpu.empty());
    ASSERT_EQ(Run("info", "bflow", {"info", model, "--server=" + gpu}), 0) << Text("info.err");
    EXPECT_THAT(Text("info.out"), HasSubstr("on cuda:0"));
    const auto got = Scores(gpu, model), expected = Scores(cpu, model);
    ASSERT_GT(expected.size(), 100u);
    ASSERT_EQ(got.size(), expected.size());
    for (const auto& [key, value] : expected) {
      if (key.second == "p_value") {
        EXPECT_NEAR(got.at(key), value, 0.05) << key.first;
      } else {
        EXPECT_NEAR(got.at(key), value, 5e-4 * std::max(1.0, std::abs(value)))
            << key.second << " of window " << key.first;
      }
    }
  }

  std::string folder_;
  std::vector<pid_t> servers_;
};

TEST_F(GpuPrograms, TheShippedModelScoresAsOnTheCpu) {
  ExpectSameScores("deploy/models", "icu-ecg");
}

TEST_F(GpuPrograms, TrainsOnTheGpuAndServesOnBoth) {
  ASSERT_EQ(Run("train", "bflow-train",
                {"--preset=waveform-published", "--data", kRecord, "--signals=MCL1,V",
                 "--device=cuda", "--out=" + folder_ + "/models", "--model=trained", "--steps=40",
                 "--checkpoint_every=20", "--ema=0.9"}),
            0)
      << Text("train.err");
  EXPECT_THAT(Text("train.err"), HasSubstr("computing on cuda:0"));
  ExpectSameScores(folder_ + "/models", "trained");
}

}  // namespace
}  // namespace bflow
