// The client program against the whole server, which runs in this process with a scorer that needs
// no tensor library: what the sanitizers can see of a user's session.
#include <gtest/gtest.h>

#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "base/file.h"
#include "tests/server/server_fixture.h"

namespace bflow {
namespace {

struct Outcome {
  int exit_code = -1;
  std::string text;  // of both streams
};

class SmokeTest : public ServerTest {
 protected:
  // `words` hold nothing that a shell would change.
  Outcome Run(const std::string& words, const std::string& redirection = "") {
    const std::string command = std::string(BFLOW_PROGRAM) + " " + words +
                                " --server=" + app_->listen().ToString() + " 2>&1" + redirection;
    Outcome outcome;
    FILE* pipe = popen(command.c_str(), "r");
    if (pipe == nullptr) return outcome;
    for (int byte; (byte = std::fgetc(pipe)) != EOF;) outcome.text += static_cast<char>(byte);
    const int status = pclose(pipe);
    if (WIFEXITED(status)) outcome.exit_code = WEXITSTATUS(status);
    return outcome;
  }

  // A record of the model's two signals: one window of 4 frames per entry, which is the first
  // sample of II; all else is 0.
  std::string Record(const std::vector<int8_t>& firsts) {
    std::string data;
    for (int8_t first : firsts) {
      data += static_cast<char>(static_cast<uint8_t>(first) + 128);  // format 80: offset binary
      data.append(7, static_cast<char>(128));
    }
    const std::string path = (folder_ / "r").string();
    EXPECT_TRUE(WriteFileAtomically(path + ".dat", data).ok());
    EXPECT_TRUE(WriteFileAtomically(path + ".hea", "r 2 125 " + std::to_string(4 * firsts.size()) +
                                                       "\nr.dat 80 81(29)/mV 8 0 0 0 0 II\n"
                                                       "r.dat 80 81(29)/mV 8 0 0 0 0 V\n")
                    .ok());
    return path;
  }
};

TEST_F(SmokeTest, AUsersSession) {
  ASSERT_TRUE(StartWith("").ok());
  const std::string record = Record({1, 100, 3});

  const Outcome models = Run("models");
  EXPECT_EQ(models.exit_code, 0) << models.text;
  EXPECT_NE(models.text.find("ecg"), std::string::npos) << models.text;

  const std::string csv = (folder_ / "scores.csv").string();
  const Outcome score = Run("score ecg " + record + " --out=" + csv);
  EXPECT_EQ(score.exit_code, 0) << score.text;
  EXPECT_NE(score.text.find("3 scored"), std::string::npos) << score.text;
  EXPECT_NE(score.text.find("1 (33.3%)"), std::string::npos) << "flagged: " << score.text;
  const auto rows = ReadFile(csv, 1 << 20);
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_EQ(std::count(rows->begin(), rows->end(), '\n'), 4) << *rows;

  const Outcome loglik = Run("loglik ecg@2 " + record + " --seed=4 --json");
  EXPECT_EQ(loglik.exit_code, 0) << loglik.text;
  EXPECT_EQ(Run("loglik ecg@2 " + record + " --seed=4 --json").text, loglik.text);

  const std::string file = (folder_ / "samples.npy").string();
  const Outcome sample = Run("sample ecg --num=5 --seed=9 --out=" + file);
  EXPECT_EQ(sample.exit_code, 0) << sample.text;
  const Outcome again = Run("loglik ecg " + file + " --seed=1");
  EXPECT_EQ(again.exit_code, 0) << again.text;

  EXPECT_EQ(Run("models", " >/dev/full").exit_code, 73);

  const Outcome unknown = Run("score nobody " + record);
  EXPECT_EQ(unknown.exit_code, 64) << unknown.text;
  const Outcome plain = Run("score plain " + record);
  EXPECT_EQ(plain.exit_code, 64) << plain.text;
  EXPECT_NE(plain.text.find("NO_CALIBRATION"), std::string::npos) << plain.text;
}

}  // namespace
}  // namespace bflow
