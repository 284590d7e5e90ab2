// Broken and hostile WFDB records: each is refused with a message that names file, line and cause.
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/data/wfdb.h"

namespace bflow {
namespace {

using ::testing::HasSubstr;

class BrokenWfdbTest : public ::testing::Test {
 protected:
  BrokenWfdbTest() {
    std::string pattern = ::testing::TempDir() + "/bflow_wfdb_XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~BrokenWfdbTest() override {
    const auto names = ListDirectory(folder_);
    for (const std::string& name : *names) unlink((folder_ + "/" + name).c_str());
    rmdir(folder_.c_str());
  }
  void Write(const std::string& name, const std::string& content) {
    std::ofstream file(JoinPath(folder_, name), std::ios::binary);
    file << content;
    ASSERT_TRUE(file.good());
  }
  // Reads record r and expects this code and these parts of the message.
  void ExpectError(absl::StatusCode code, const std::vector<std::string>& parts) {
    auto record = ReadWfdbRecord(folder_ + "/r");
    ASSERT_FALSE(record.ok());
    EXPECT_EQ(record.status().code(), code) << record.status();
    for (const std::string& part : parts) {
      EXPECT_THAT(std::string(record.status().message()), HasSubstr(part));
    }
    EXPECT_EQ(record.status().message().find(folder_), absl::string_view::npos);
  }

  std::string folder_;
};

TEST_F(BrokenWfdbTest, FlacFiles) {
  const auto kDamage = absl::StatusCode::kDataLoss;
  const std::string whole = *ReadFile("tests/model/data/records/gen_516.dat", 1 << 20);
  const std::string header = "r 2 125 60\nr.dat 516x2 100/mV\nr.dat 516x2 10/mV\n";
  Write("r.hea", header);
  Write("r.dat", whole);
  ASSERT_TRUE(ReadWfdbRecord(folder_ + "/r").ok());

  // Every cut and every flipped byte of the samples is seen; what follows the header may be refused
  // or, in its unused fields, ignored, but is never wrong.
  const WaveformRecord good = *ReadWfdbRecord(folder_ + "/r");
  for (size_t at = 0; at < whole.size(); ++at) {
    Write("r.dat", whole.substr(0, at));
    EXPECT_FALSE(ReadWfdbRecord(folder_ + "/r").ok()) << "cut at " << at;
    std::string flipped = whole;
    flipped[at] = static_cast<char>(flipped[at] ^ 0x21);
    Write("r.dat", flipped);
    const auto record = ReadWfdbRecord(folder_ + "/r");
    if (!record.ok()) continue;
    for (size_t t = 0; t < 60; ++t) {
      const float a = record->segments[0].signals[1].codes[t];
      EXPECT_EQ(a, good.segments[0].signals[1].codes[t]) << "byte " << at;
    }
  }
  Write("r.dat", "no stream");
  ExpectError(kDamage, {"r.hea line 2", "signal file r.dat", "not a FLAC stream"});
  Write("r.dat", whole);
  Write("r.hea", "r 1 125 60\nr.dat 516x2 100/mV\n");
  ExpectError(kDamage, {"2 channels of 16 bits, the header says 1"});
  Write("r.hea", "r 2 125 60\nr.dat 508x2 100/mV\nr.dat 508x2 100/mV\n");
  ExpectError(kDamage, {"16 bits", "at most 8"});
  Write("r.hea", "r 2 125 61\nr.dat 516x2 100/mV\nr.dat 516x2 100/mV\n");
  ExpectError(kDamage, {"too short: 60"});
  Write("r.hea", "r 2 125 99999999999\nr.dat 516x2 100/mV\nr.dat 516x2 100/mV\n");
  ExpectError(absl::StatusCode::kResourceExhausted, {"r.hea line 2", "samples"});
  Write("r.hea", "r 2 125 60\nr.dat 516x2 100/mV\nr.dat 516 100/mV\n");
  ExpectError(absl::StatusCode::kInvalidArgument, {"line 3", "samples per frame"});
  Write("r.hea", "r 2 125 60\nr.dat 516x2+9 100/mV\nr.dat 516x2+9 100/mV\n");
  ExpectError(absl::StatusCode::kUnimplemented, {"byte offset"});
}

TEST_F(BrokenWfdbTest, Headers) {
  const auto kSyntax = absl::StatusCode::kInvalidArgument;
  const auto kLimit = absl::StatusCode::kResourceExhausted;
  const auto kFormat = absl::StatusCode::kUnimplemented;
  const auto kDamage = absl::StatusCode::kDataLoss;
  const struct {
    std::string header;
    absl::StatusCode code;
    std::string message;
  } cases[] = {
      {"", kSyntax, "r.hea line 1: record line: missing"},
      {"# only a comment\n", kSyntax, "record line: missing"},
      {"r\n", kSyntax, "r.hea line 1: number of signals: missing"},
      {"\n# c\nr x 125 4\n", kSyntax, "r.hea line 3: number of signals"},
      {"r -1 125 4\n", kSyntax, "number of signals"},
      {"r 257 125 4\n", kLimit, "number of signals: 257, at most 256"},
      {"r 99999999999999999999 125 4\n", kSyntax, "number of signals"},
      {"r/0 1 125 4\n", kSyntax, "number of segments"},
      {"r/100001 1 125 4\n", kLimit, "number of segments: 100001, at most 100000"},
      {"/3 1 125 4\n", kSyntax, "record name: missing"},
      {"r 1 0 4\nd.dat 80\n", kSyntax, "frames per second"},
      {"r 1 nan 4\nd.dat 80\n", kSyntax, "frames per second"},
      {"r 1 125/x 4\nd.dat 80\n", kSyntax, "counter frequency"},
      {"r 1 125/1(x) 4\nd.dat 80\n", kSyntax, "base counter value"},
      {"r 1 125 -4\nd.dat 80\n", kSyntax, "number of samples"},
      {"r 1 125 4 25:00:00\nd.dat 80\n", kSyntax, "start time"},
      {"r 1 125 4 1:2:3:4\nd.dat 80\n", kSyntax, "start time"},
      {"r 1 125 4 1:02:03 1994-01-01\nd.dat 80\n", kSyntax, "start date"},
      {"r 1 125 4 1:02:03 01/13/1994\nd.dat 80\n", kSyntax, "start date"},
      {"r 2 125 4\nd.dat 80\n", kSyntax, "announces 2 signal lines, the file has 1"},
      {"r 1 125 4\nd.dat 80\nd.dat 80\n", kSyntax, "announces 1 signal lines, the file has 2"},
      {"r 1 125 4\nd.dat\n", kSyntax, "r.hea line 2: format: not a number"},
      {"r 1 125 4\nd.dat 80x0\n", kSyntax, "samples per frame"},
      {"r 1 125 4\nd.dat 80x9999999\n", kSyntax, "samples per frame"},
      {"r 1 125 4\nd.dat 80:z\n", kSyntax, "skew"},
      {"r 1 125 4\nd.dat 80+-1\n", kSyntax, "byte offset"},
      {"r 1 125 4\nd.dat 80q\n", kSyntax, "format: expected"},
      {"r 1 125 4\nd.dat 80 abc\n", kSyntax, "gain: not a number"},
      {"r 1 125 4\nd.dat 80 inf\n", kSyntax, "gain"},
      {"r 1 125 4\nd.dat 80 200(1.5)/mV\n", kSyntax, "baseline"},
      {"r 1 125 4\nd.dat 80 200/\n", kSyntax, "unit"},
      {"r 1 125 4\nd.dat 80 200 99\n", kSyntax, "ADC resolution"},
      {"r 1 125 4\nd.dat 80 200 8 x\n", kSyntax, "ADC zero"},
      {"r 1 125 4\nd.dat 80 200 8 0 x\n", kSyntax, "initial value"},
      {"r 1 125 4\nd.dat 80 200 8 0 0 x\n", kSyntax, "checksum"},
      {"r 1 125 4\nd.dat 80 200 8 0 0 0 x\n", kSyntax, "block size"},
      {"r 1 125 4\n../d.dat 80\n", kSyntax, "r.hea line 2: signal file: expected a plain name"},
      {"r 1 125 4\n/etc/passwd 80\n", kSyntax, "signal file"},
      {"r 1 125 4\n.. 80\n", kSyntax, "signal file"},
      {"r 1 125 4\nd.dat 310\n", kFormat, "r.hea line 2: format 310 is not supported"},
      {"r 1 125 4\nd.dat 0\n", kFormat, "format 0 is not supported"},
      {"r 2 125 2\nd.dat 80\nd.dat 16\n", kSyntax,
       "r.hea line 3: format: 16 in a file of format 80"},
      {"r 2 125 2\nd.dat 80\nd.dat 80+1\n", kSyntax, "line 3: byte offset"},
      {"r 3 125 2\nd.dat 80\ne.dat 80\nd.dat 80\n", kSyntax, "line 4: signals of one file"},
      {"r 1 125 5\nd.dat 80\n", kDamage, "line 2: signal file d.dat is too short: 4 samples"},
      {"r 1 125 4\nd.dat 80+1\n", kDamage, "too short: 3 samples"},
      {"r 1 125 4\nd.dat 80+99999999\n", kDamage, "too short: 0 samples"},
      {"r 1 125 4\nd.dat 80x2\n", kDamage, "too short: 2 samples"},
      {"r 1 125 1000000000000\nd.dat 80\n", kDamage, "too short"},
      {"r 1 125 4\nd.dat 80 200 8 0 1 7 0 II\n", kDamage,
       "line 2: signal II: the samples of d.dat"},
      {"r 0 125 4\n", kSyntax, "the record has no signals"},
      {"r 1 125 4\n~ 0 200 8 0 0 0 0 II\n", kSyntax, "a layout header has no samples"},
      {"r 1 125 4\nmissing.dat 80\n", absl::StatusCode::kNotFound, "r.hea line 2: "},
  };
  Write("d.dat", std::string("\x81\x82\x83\x84", 4));  // codes 1 2 3 4, sum 10
  for (const auto& c : cases) {
    SCOPED_TRACE(c.header);
    Write("r.hea", c.header);
    ExpectError(c.code, {c.message});
  }
  Write("r.hea", "r 1 125 4\nd.dat 80 200 8 0 1 10 0 II\n");
  EXPECT_TRUE(ReadWfdbRecord(folder_ + "/r").ok());
  Write("r.hea", "r 1 125 4\nd.dat 80 200 8 0 0 0 0 II\n");  // a writer that knew no checksum
  EXPECT_TRUE(ReadWfdbRecord(folder_ + "/r").ok());
}

TEST_F(BrokenWfdbTest, Segments) {
  Write("d.dat", std::string("\x81\x82\x83\x84", 4));
  Write("a.hea", "a 1 125 4\nd.dat 80\n");
  Write("rate.hea", "rate 1 250 4\nd.dat 80\n");
  Write("two.hea", "two 2 125 2\nd.dat 80\nd.dat 80\n");
  Write("bad.hea", "bad 1 125 4\nd.dat 80x\n");
  Write("short.hea", "short 1 125 9\nd.dat 80\n");
  Write("nested.hea", "nested/1 1 125 4\na 4\n");
  Write("layout.hea", "layout 2 125 0\n~ 0\n~ 0\n");
  const struct {
    std::string header;
    absl::StatusCode code;
    std::vector<std::string> parts;
  } cases[] = {
      {"r/1 1 125 4\nnowhere 4\n",
       absl::StatusCode::kNotFound,
       {"r.hea line 2: segment nowhere: ", "nowhere.hea"}},
      {"r/2 1 125 8\na 4\nbad 4\n",
       absl::StatusCode::kInvalidArgument,
       {"r.hea line 3: segment bad: bad.hea line 2: samples per frame"}},
      {"r/2 1 125 13\na 4\nshort 9\n",
       absl::StatusCode::kDataLoss,
       {"segment short: short.hea line 2: signal file d.dat is too short"}},
      {"r/1 1 125 4\nrate 4\n",
       absl::StatusCode::kDataLoss,
       {"segment rate: rate.hea line 1: 250 frames per second, the record 125"}},
      {"r/1 1 125 3\na 3\n",
       absl::StatusCode::kDataLoss,
       {"segment a: a.hea line 1: 4 samples per signal, the record says 3"}},
      {"r/1 1 125 2\ntwo 2\n",
       absl::StatusCode::kDataLoss,
       {"segment two", "2 signals, the record 1"}},
      {"r/1 1 125 4\nnested 4\n", absl::StatusCode::kDataLoss, {"must not have segments itself"}},
      {"r/1 1 125 4\nr 4\n", absl::StatusCode::kDataLoss, {"must not have segments itself"}},
      {"r/2 1 125 4\nlayout 0\na 4\n", absl::StatusCode::kDataLoss, {"layout layout: 2 signals"}},
      {"r/2 1 125 9\na 4\n~ 4\n",
       absl::StatusCode::kDataLoss,
       {"r.hea line 1: number of samples: 9, the segments add up to 8"}},
      {"r/1 1 125 4\n../a 4\n", absl::StatusCode::kInvalidArgument, {"r.hea line 2: segment: "}},
      {"r/1 1 125 4\na\n", absl::StatusCode::kInvalidArgument, {"segment length: missing"}},
      {"r/1 1 125 4\na x\n", absl::StatusCode::kInvalidArgument, {"segment length: expected"}},
      {"r/2 1 125 4\na 4\n", absl::StatusCode::kInvalidArgument, {"announces 2 segment lines"}},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.header);
    Write("r.hea", c.header);
    ExpectError(c.code, c.parts);
  }
}

TEST_F(BrokenWfdbTest, MissingRecordAndLinks) {
  ExpectError(absl::StatusCode::kNotFound, {"r.hea"});
  Write("r.hea", "r 1 125 4\nlink.dat 80\n");
  Write("d.dat", "abcd");
  ASSERT_EQ(symlink((folder_ + "/d.dat").c_str(), (folder_ + "/link.dat").c_str()), 0);
  EXPECT_FALSE(ReadWfdbRecord(folder_ + "/r").ok());
}

// Whatever bytes a header has, reading it ends with a status.
TEST_F(BrokenWfdbTest, MutatedHeadersNeverCrash) {
  const std::string header =
      "r 2 125/250(3) 2 1:02:03.5 1/2/1994\nd.dat 212x1:0+0 200(1)/mV 12 0 1 3 0 II\nd.dat 212\n";
  Write("d.dat", std::string("\x01\x20\x03\x04\x50\x06", 6));
  uint32_t state = 1;
  for (int i = 0; i < 150; ++i) {
    std::string mutated = header;
    for (int k = 0; k < 1 + i % 3; ++k) {
      state = state * 1664525u + 1013904223u;
      mutated[(state >> 8) % mutated.size()] = " 09/:+x(-\n~.\0#"[(state >> 24) % 14];
    }
    Write("r.hea", mutated);
    auto record = ReadWfdbRecord(folder_ + "/r");
    if (!record.ok()) {
      EXPECT_FALSE(record.status().message().empty());
      continue;
    }
    EXPECT_LE(record->frames, 4);
  }
}

}  // namespace
}  // namespace bflow
