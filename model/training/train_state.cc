#include "model/training/train_state.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <span>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/fault_point.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status.h"
#include "model/checkpoint/safetensors.h"

namespace bflow {
namespace {

constexpr char kFormat[] = "bflow-train state 2";

constexpr int64_t kMaxStateBytes = int64_t{4} << 30;

using Metadata = std::map<std::string, std::string>;

absl::Status Damaged(const std::string& what) {
  return absl::DataLossError(absl::StrCat("training state: ", what));
}

// All bits of the value.
std::string Exact(double value) { return absl::StrFormat("%a", value); }

// The fields of the metadata by name; remembers the first fault.
class Reader {
 public:
  explicit Reader(const Metadata& metadata) : metadata_(metadata) {}

  std::string Text(const char* name) {
    const auto found = metadata_.find(name);
    if (found != metadata_.end()) return found->second;
    Fault(name);
    return "";
  }
  template <typename Integer>
  void Whole(const char* name, Integer* out) {
    if (!absl::SimpleAtoi(Text(name), out)) Fault(name);
  }
  void Real(const char* name, double* out) {
    const std::string text = Text(name);
    char* end = nullptr;
    *out = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0' || !std::isfinite(*out)) Fault(name);
  }
  void Optional(const char* name, std::optional<double>* out) {
    if (metadata_.find(name) == metadata_.end()) return;
    Real(name, &out->emplace());
  }
  absl::Status status() const { return status_; }

 private:
  void Fault(const char* name) {
    if (status_.ok()) status_ = Damaged(name);
  }
  const Metadata& metadata_;
  absl::Status status_;
};

using Field = std::pair<const char*, std::vector<float> TrainState::*>;
constexpr Field kTensors[] = {{"parameters", &TrainState::parameters},
                              {"first_moment", &TrainState::first_moment},
                              {"second_moment", &TrainState::second_moment},
                              {"average", &TrainState::average},
                              {"best", &TrainState::best}};

// Of everything in the file: a bit that a disk lost must not train on.
std::string Digest(Metadata metadata, const TrainState& state) {
  metadata.erase("sha256");
  std::string all;
  for (const auto& [key, value] : metadata) absl::StrAppend(&all, key, "=", value, "\n");
  for (const auto& [name, member] : kTensors) {
    const std::vector<float>& values = state.*member;
    absl::StrAppend(&all, name, " ", values.size(), "\n");
    all.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  }
  return Sha256Hex(all);
}

}  // namespace

std::string TrainStatePath(const std::string& repository, const std::string& model) {
  return JoinPath(repository, absl::StrCat(".", model, ".training"));
}

absl::StatusOr<std::string> SerialiseTrainState(const TrainState& state) {
  Metadata metadata = {{"format", kFormat},
                       {"fingerprint", state.fingerprint},
                       {"step", absl::StrCat(state.step)},
                       {"bad_steps", absl::StrCat(state.bad_steps)},
                       {"skipped_steps", absl::StrCat(state.skipped_steps)},
                       {"rows_drawn", absl::StrCat(state.rows_drawn)},
                       {"generator", state.generator},
                       {"average_updates", absl::StrCat(state.average_updates)},
                       {"best_step", absl::StrCat(state.best_step)},
                       {"first_nll", Exact(state.first_nll)},
                       {"interval_loss", Exact(state.interval_loss)},
                       {"interval_gradient_norm", Exact(state.interval_gradient_norm)},
                       {"interval_steps", absl::StrCat(state.interval_steps)},
                       {"seconds", Exact(state.seconds)}};
  if (state.best_nll) metadata["best_nll"] = Exact(*state.best_nll);
  if (state.last_nll) metadata["last_nll"] = Exact(*state.last_nll);
  metadata["sha256"] = Digest(metadata, state);
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, member] : kTensors) {
    const std::vector<float>& values = state.*member;
    if (values.empty()) continue;
    tensors.push_back({name,
                       DType::kF32,
                       {static_cast<int64_t>(values.size())},
                       std::as_bytes(std::span<const float>(values))});
  }
  return SerializeSafetensors(tensors, metadata);
}

absl::StatusOr<TrainState> ParseTrainState(std::string bytes) {
  absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Parse(std::move(bytes));
  if (!file.ok()) return Damaged(std::string(file.status().message()));
  Reader reader(file->metadata());
  if (reader.Text("format") != kFormat) return Damaged("not a state of this program");
  TrainState state;
  state.fingerprint = reader.Text("fingerprint");
  reader.Whole("step", &state.step);
  reader.Whole("bad_steps", &state.bad_steps);
  reader.Whole("skipped_steps", &state.skipped_steps);
  reader.Whole("rows_drawn", &state.rows_drawn);
  state.generator = reader.Text("generator");
  reader.Whole("average_updates", &state.average_updates);
  reader.Whole("best_step", &state.best_step);
  reader.Real("first_nll", &state.first_nll);
  reader.Real("interval_loss", &state.interval_loss);
  reader.Real("interval_gradient_norm", &state.interval_gradient_norm);
  reader.Whole("interval_steps", &state.interval_steps);
  reader.Real("seconds", &state.seconds);
  reader.Optional("best_nll", &state.best_nll);
  reader.Optional("last_nll", &state.last_nll);
  BFLOW_RETURN_IF_ERROR(reader.status());
  for (const auto& [name, member] : kTensors) {
    const TensorView* tensor = file->Find(name);
    if (tensor == nullptr) continue;
    if (tensor->dtype != DType::kF32) return Damaged(name);
    std::vector<float>& values = state.*member;
    values.resize(tensor->data.size() / sizeof(float));
    std::memcpy(values.data(), tensor->data.data(), tensor->data.size());
  }
  if (reader.Text("sha256") != Digest(file->metadata(), state)) return Damaged("sha256");
  const size_t count = state.parameters.size();
  if (state.first_moment.size() != count) return Damaged("first_moment");
  if (state.second_moment.size() != count) return Damaged("second_moment");
  if (state.average.size() > count) return Damaged("average");
  if (!state.best.empty() && state.best.size() != count) return Damaged("best");
  if (state.step < 0 || state.bad_steps < 0 || state.skipped_steps < 0 ||
      state.average_updates < 0) {
    return Damaged("step");
  }
  return state;
}

absl::Status WriteTrainState(FileSystem& files, const std::string& path, const TrainState& state) {
  BFLOW_ASSIGN_OR_RETURN(const std::string bytes, SerialiseTrainState(state));
  BFLOW_FAULT_POINT("train_state.before_write");
  BFLOW_RETURN_IF_ERROR(WriteFileAtomically(files, path, bytes, 0600));
  BFLOW_FAULT_POINT("train_state.after_write");
  return absl::OkStatus();
}

absl::StatusOr<TrainState> ReadTrainState(const std::string& path) {
  BFLOW_ASSIGN_OR_RETURN(std::string bytes, ReadFile(path, kMaxStateBytes));
  return ParseTrainState(std::move(bytes));
}

}  // namespace bflow
