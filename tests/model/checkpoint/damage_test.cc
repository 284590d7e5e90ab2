// Truncation and bit flips of a model file, once found by its hash and once with the manifest made
// to fit, so that the strict reader stands alone.
#include <algorithm>
#include <cstring>
#include <random>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/checkpoint/checkpoint_files.h"
#include "tests/model/checkpoint/small_checkpoint.h"

namespace bflow {
namespace {

using testing::HasSubstr;

absl::Status CheckModel(const std::string& bytes) {
  auto file = SafetensorsFile::Parse(bytes);
  if (!file.ok()) return file.status();
  auto spec = ReadSpec(*file);
  if (!spec.ok()) return spec.status();
  absl::Status status = CheckTensors(*spec, *file);
  // What is accepted is a valid model: its spec says the same when it is written and read again.
  if (status.ok()) {
    auto again = ParseFlowSpec(FlowSpecToJson(*spec));
    EXPECT_TRUE(again.ok() && FlowSpecToJson(*again) == FlowSpecToJson(*spec));
    EXPECT_EQ(file->tensors().size(), ExpectedTensors(*spec).size());
  }
  return status;
}

class DamageTest : public CheckpointFolderTest {
 protected:
  void SetUp() override {
    CheckpointFolderTest::SetUp();
    ASSERT_TRUE(WriteCheckpoint(Version(1), small_.ToWrite()).ok());
    good_ = Slurp(Version(1) + "/model.safetensors");
    uint64_t header;
    std::memcpy(&header, good_.data(), 8);
    data_begin_ = 8 + static_cast<size_t>(header);
  }
  absl::StatusOr<Checkpoint> ReadWith(const std::string& bytes, bool rehash) {
    Replace(Version(1), "model.safetensors", bytes, rehash);
    return ReadCheckpoint(Version(1));
  }

  SmallCheckpoint small_;
  std::string good_;
  size_t data_begin_ = 0;
};

TEST_F(DamageTest, EveryTruncationIsFound) {
  std::vector<size_t> sizes;
  for (size_t i = 0; i < data_begin_; ++i) sizes.push_back(i);
  for (size_t i = 0; i < 64; ++i) {
    sizes.push_back(data_begin_ + i * (good_.size() - data_begin_) / 64);
  }
  for (size_t size : sizes) {
    EXPECT_EQ(SafetensorsFile::Parse(good_.substr(0, size)).status().code(),
              absl::StatusCode::kDataLoss)
        << size;
  }
  for (bool rehash : {false, true}) {
    auto status = ReadWith(good_.substr(0, good_.size() - 4), rehash).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), HasSubstr("model.safetensors"));
  }
}

TEST_F(DamageTest, EveryFlipIsFoundByTheHash) {
  for (size_t byte = 0; byte < good_.size(); byte += 101) {
    std::string bad = good_;
    bad[byte] = static_cast<char>(bad[byte] ^ (1 << byte % 8));
    auto status = ReadWith(bad, false).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << byte;
  }
}

// With a fitting hash a flip is refused, or what was read is a valid model: its spec is valid and
// its tensors are exactly that spec's.
TEST_F(DamageTest, AFlipUnderAFittingHashIsRefusedOrAValidModel) {
  std::mt19937 random(7);
  std::vector<size_t> bits;
  for (size_t bit = 0; bit < 8 * data_begin_; bit += 5) bits.push_back(bit);
  for (int i = 0; i < 500; ++i) {
    bits.push_back(8 * data_begin_ + random() % (8 * (good_.size() - data_begin_)));
  }
  int refused = 0;
  for (size_t bit : bits) {
    std::string bad = good_;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    // The steps of ReadCheckpoint behind the hash, in memory; a sample goes through the folder.
    const absl::Status status = CheckModel(bad);
    if (bit % 64 == 0) {
      EXPECT_EQ(ReadWith(bad, true).ok(), status.ok()) << bit;
    }
    if (!status.ok()) {
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << bit << status;
      ++refused;
    }
  }
  EXPECT_GT(refused, static_cast<int>(bits.size()) / 3);
}

TEST_F(DamageTest, ValuesThatBreakTheFlowNameTheirTensor) {
  struct Bad {
    const char* tensor;
    size_t element;
    float value;
  };
  const Bad cases[] = {{"levels.0.blocks.0.0.bias", 1, NAN},
                       {"levels.0.blocks.0.0.log_scale", 0, INFINITY},
                       {"levels.0.blocks.0.1.upper", 3, NAN},
                       {"levels.0.blocks.0.1.log_diagonal", 2, -20.5f},
                       {"levels.0.blocks.0.1.diagonal_sign", 0, 0.5f},
                       {"levels.0.blocks.0.2.factors.0", 0, 0.0f},
                       {"levels.0.blocks.0.2.factors.2", 0, 1e-12f},
                       {"levels.1.blocks.0.0.rounds.1.parts.1.factors.1", 0, 3e9f},
                       {"levels.1.blocks.0.1.shift_net.2.weight", 0, -INFINITY}};
  for (const Bad& bad : cases) {
    SmallCheckpoint broken;
    broken.Set(bad.tensor, bad.element, bad.value);
    auto status = ReadWith(broken.ModelBytes(), true).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("tensor ", bad.tensor, ":")));
  }
  EXPECT_TRUE(ReadWith(good_, true).ok());
}

TEST(LatticeTensors, AreStrictlyAscendingAndBounded) {
  FlowSpec spec = SmallSpec();
  spec.pre = {LatticeSpec{{3, 1}}};
  spec.levels = {LevelSpec{.squeeze = 1, .blocks = {}, .prior = {}, .split = false}};
  ASSERT_TRUE(ValidateFlowSpec(spec).ok()) << ValidateFlowSpec(spec);
  const auto check = [&](std::vector<int64_t> first, std::vector<int64_t> second) {
    std::vector<TensorToWrite> tensors;
    for (const auto& [name, values] :
         {std::pair<std::string, std::vector<int64_t>&>("pre.0.codes.0", first),
          {"pre.0.codes.1", second}}) {
      tensors.push_back({name,
                         DType::kI64,
                         {static_cast<int64_t>(values.size())},
                         std::as_bytes(std::span(values))});
    }
    const auto file = SafetensorsFile::Parse(*SerializeSafetensors(tensors, {}));
    EXPECT_TRUE(file.ok()) << file.status();
    return std::string(CheckTensors(spec, *file).message());
  };
  EXPECT_EQ(check({-4, 0, 9}, {0}), "");
  EXPECT_THAT(check({-4, 9, 0}, {0}), HasSubstr("pre.0.codes.0: element 2 is not above"));
  EXPECT_THAT(check({0, 0, 1}, {0}), HasSubstr("pre.0.codes.0: element 1 is not above"));
  EXPECT_THAT(check({0, 1}, {0}), HasSubstr("pre.0.codes.0: has shape [2], expected [3]"));
  EXPECT_THAT(check({0, 1, 2}, {(int64_t{1} << 40) + 1}),
              HasSubstr("pre.0.codes.1: element 0 is beyond"));
  EXPECT_THAT(check({INT64_MIN, 1, 2}, {0}), HasSubstr("pre.0.codes.0: element 0 is beyond"));
}

TEST_F(DamageTest, ASpecThatDoesNotFitTheTensorsIsRefused) {
  FlowSpec other = small_.spec;
  std::get<AffineCouplingSpec>(other.levels[1].blocks[0][1]).hidden = 5;
  auto status = ReadWith(small_.ModelBytes(FlowSpecToJson(other)), true).status();
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("tensor levels.1.blocks.0.1.scale_net.0.weight: has shape [3, 2]"));
  other = small_.spec;
  other.levels[1].blocks[0].pop_back();
  status = ReadWith(small_.ModelBytes(FlowSpecToJson(other)), true).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("the flow_spec has no such tensor"));
}

TEST_F(DamageTest, TheOtherFilesAreCheckedToo) {
  const std::string x = Slurp(Version(1) + "/selftest.safetensors");
  Replace(Version(1), "selftest.safetensors", x.substr(0, x.size() - 8), true);
  EXPECT_THAT(std::string(ReadCheckpoint(Version(1)).status().message()),
              HasSubstr("selftest.safetensors: tensor score"));
  Replace(Version(1), "selftest.safetensors", x, true);
  Replace(Version(1), "calibration.json", CalibrationToJson(SmallCalibration(9)), true);
  EXPECT_THAT(std::string(ReadCheckpoint(Version(1)).status().message()),
              HasSubstr("calibration.json: feature_names"));
  Put(Version(1) + "/manifest.json", "{}");
  EXPECT_THAT(std::string(ReadCheckpoint(Version(1)).status().message()),
              HasSubstr("manifest.json: format: missing"));
}

}  // namespace
}  // namespace bflow
