#include "tests/model/checkpoint/small_checkpoint.h"

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/sha256.h"

namespace bflow {

FlowSpec SmallSpec() {
  FlowSpec spec;
  spec.event_shape = {8, 2};
  spec.sampling_rate_hz = 125;
  for (const char* name : {"II", "ABP"}) {
    ChannelSpec channel;
    channel.name = name;
    channel.unit = "mV";
    channel.gain = 81.5;
    channel.input_min = -127;
    channel.input_max = 127;
    channel.lo = -98;
    channel.hi = 127;
    spec.channels.push_back(channel);
  }
  ButterflySpec wide;
  wide.factors = 3;
  ButterflySpec parts;
  parts.partitions = {4, 2, 2};
  parts.partition_factors = {2, 1, 0};
  parts.rotate = true;
  parts.shared = false;
  LevelSpec first;
  first.blocks = {{ActNormSpec{}, LuMatmulSpec{}, wide, AffineCouplingSpec{2}}};
  first.split = true;
  LevelSpec second;
  second.blocks = {{parts, AffineCouplingSpec{3}}};
  spec.levels = {first, second};
  return spec;
}

Calibration SmallCalibration(size_t features) {
  Calibration c;
  for (size_t i = 0; i < features; ++i) {
    c.feature_names.push_back(absl::StrCat("feature/", i));
    c.centre.push_back(0.1 * static_cast<double>(i));
    c.scale.push_back(1.5);
    c.mean.push_back(-0.25);
    c.inverse_covariance.emplace_back(features, 0.125);
    c.inverse_covariance.back()[i] = 2;
  }
  c.scores = {0.5, 1, 7.25};
  c.nll = {-1.5, 0.1, 0.1};
  c.alpha = 0.25;  // 1/(n + 1), the smallest there is
  c.reference_mean = -0.4;
  c.reference_stddev = 0.75;
  return c;
}

SmallCheckpoint::SmallCheckpoint(bool with_calibration)
    : spec(SmallSpec()), calibrated(with_calibration) {
  for (TensorSpec& tensor : ExpectedTensors(spec)) {
    int64_t count = 1;
    for (int64_t d : tensor.shape) count *= d;
    Owned owned{std::move(tensor), {}, {}};
    const bool factor = owned.spec.name.find(".factors.") != std::string::npos;
    const bool sign = owned.spec.name.ends_with("diagonal_sign");
    for (int64_t i = 0; i < count; ++i) {
      if (owned.spec.is_index()) {
        owned.indices.push_back(count - 1 - i);
      } else if (sign) {
        owned.floats.push_back(i % 2 == 0 ? 1.0f : -1.0f);
      } else if (factor) {
        // Element [b, h, j, o]: upper triangular, det = 1.5.
        const int64_t h = i / (2 * owned.spec.shape[2]) % 2;
        const int64_t o = i % 2;
        owned.floats.push_back(h == o ? (h == 0 ? 1.5f : 1.0f) : (h == 0 ? 0.25f : 0.0f));
      } else {
        owned.floats.push_back(0.125f * static_cast<float>(i % 5) - 0.25f);
      }
    }
    owned_.push_back(std::move(owned));
  }
}

std::vector<TensorToWrite> SmallCheckpoint::Tensors() const {
  std::vector<TensorToWrite> tensors;
  for (const Owned& o : owned_) {
    tensors.push_back({o.spec.name, o.spec.is_index() ? DType::kI64 : DType::kF32, o.spec.shape,
                       o.spec.is_index() ? std::as_bytes(std::span(o.indices))
                                         : std::as_bytes(std::span(o.floats))});
  }
  return tensors;
}

void SmallCheckpoint::Set(const std::string& name, size_t element, float value) {
  for (Owned& o : owned_) {
    if (o.spec.name == name) {
      o.floats.at(element) = value;
      return;
    }
  }
  FAIL() << "no tensor " << name;
}

std::string SmallCheckpoint::ModelBytes(const std::string& metadata_spec) const {
  auto bytes = SerializeSafetensors(
      Tensors(), {{"format", "butterflyflow/1"},
                  {"flow_spec", metadata_spec.empty() ? FlowSpecToJson(spec) : metadata_spec},
                  {"producer", "checkpoint_test 1"}});
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  return *bytes;
}

CheckpointToWrite SmallCheckpoint::ToWrite() const {
  CheckpointToWrite w;
  w.spec = spec;
  w.tensors = Tensors();
  w.self_test.rows = 2;
  for (int i = 0; i < 32; ++i) w.self_test.x.push_back(static_cast<float>(i - 16));
  w.self_test.log_prob = {-12.5, -13.25};
  if (calibrated) {
    w.calibration = SmallCalibration(2 + 2 + 6);
    w.self_test.score = {3.5, 4.5};
  }
  w.card = {{"trained_on", "synthetic"}, {"hours", "0.5"}};
  w.producer = "checkpoint_test 1";
  return w;
}

void CheckpointFolderTest::SetUp() {
  std::string pattern = testing::TempDir() + "/bflow_checkpoint_XXXXXX";
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  root_ = pattern;
}

std::string CheckpointFolderTest::Version(int version) const {
  return VersionDirectory(root_, "model", version);
}

std::string CheckpointFolderTest::Slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

void CheckpointFolderTest::Put(const std::string& path, std::string_view bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(out.good());
}

void CheckpointFolderTest::Replace(const std::string& folder, const std::string& file,
                                   const std::string& bytes, bool rehash) {
  Put(JoinPath(folder, file), bytes);
  if (!rehash) return;
  const std::string path = JoinPath(folder, "manifest.json");
  auto manifest = ParseManifest(Slurp(path));
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  for (ManifestFile& entry : manifest->files) {
    if (entry.name == file) {
      entry.size = static_cast<int64_t>(bytes.size());
      entry.sha256 = Sha256Hex(bytes);
    }
  }
  Put(path, ManifestToJson(*manifest));
}

}  // namespace bflow
