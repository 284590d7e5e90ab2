#include "model/training/save_model.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status.h"
#include "base/version.h"
#include "model/checkpoint/checkpoint_files.h"
#include "model/checkpoint/repository.h"
#include "model/checkpoint/safetensors.h"
#include "model/scoring/anomaly.h"
#include "model/scoring/attribution.h"
#include "model/scoring/flow_scorer.h"
#include "model/scoring/flow_tensors.h"
#include "model/scoring/window_features.h"
#include "model/training/trainer.h"

namespace bflow {
namespace {

HostBatch SelfTestRows(const FlowSpec& spec, const TrainingEvents& data) {
  HostBatch batch;
  for (DataPart part : {DataPart::kCalibration, DataPart::kValidation, DataPart::kTrain}) {
    batch.values = data.Gather(part, true, SelfTestRowCount(spec), &batch.rows);
    if (batch.rows > 0) break;
  }
  return batch;
}

// From half A of the calibration windows: the even rows that can be scored.
absl::StatusOr<AttributionTables> CalibrateAttribution(Flow& flow, const HostBatch& rows,
                                                       const std::vector<RowStatus>& status) {
  const FlowSpec& spec = flow.spec();
  HostBatch half;
  for (int64_t row = 0; row < rows.rows; row += 2) {
    if (status[static_cast<size_t>(row)] != RowStatus::kOk) continue;
    const auto begin = rows.values.begin() + row * spec.event_size();
    half.values.insert(half.values.end(), begin, begin + spec.event_size());
    ++half.rows;
  }
  PassOptions options;
  options.want_causes = true;
  BFLOW_ASSIGN_OR_RETURN(PassResult pass, RunPass(flow, half, CalibrationNoise(spec), 0, options));
  std::vector<double> steps;
  for (const ChannelSpec& channel : spec.channels) steps.push_back(channel.step);
  return FitAttribution(pass.causes, spec.time_steps(), steps);
}

// In steps of the codes, so that models are comparable.
void AddLikelihood(const RunDescription& run, const FlowSpec& spec,
                   std::map<std::string, std::string>* card) {
  const bool tested = run.test && std::isfinite(run.test->nll);
  if (!spec.quantised() || !(tested || run.validation_nll)) return;
  const std::string part = tested ? "test" : "validation";
  const double nats = (tested ? run.test->nll : *run.validation_nll) + CodeUnitOffset(spec);
  if (!spec.is_image()) {
    (*card)["nats_per_sample_step_unit"] = absl::StrFormat("%.6f", nats);
    (*card)["nats_per_sample_part"] = part;
    return;
  }
  (*card)["bits_per_dim"] = absl::StrFormat("%.6f", nats / std::log(2));
  (*card)["bits_per_dim_part"] = part;
  if (!tested) return;
  const double weighted = run.test->importance_weighted_nll + CodeUnitOffset(spec);
  (*card)["bits_per_dim_importance_weighted"] = absl::StrFormat("%.6f", weighted / std::log(2));
  (*card)["bits_per_dim_draws"] = absl::StrCat(run.test->draws);
}

// What a reader of the file would say.
absl::Status CheckWeights(const FlowSpec& spec, const FlowTensors& tensors) {
  BFLOW_ASSIGN_OR_RETURN(std::string bytes, SerializeSafetensors(tensors.tensors, {}));
  BFLOW_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Parse(std::move(bytes)));
  return CheckTensors(spec, file);
}

}  // namespace

absl::StatusOr<std::optional<Calibration>> Calibrate(Flow& flow, const TrainingEvents& data) {
  HostBatch rows;
  rows.values =
      data.Gather(DataPart::kCalibration, true, std::numeric_limits<int64_t>::max(), &rows.rows);
  if (rows.rows == 0) return std::optional<Calibration>();
  Noise noise = CalibrationNoise(flow.spec());
  BFLOW_ASSIGN_OR_RETURN(WindowFeatures features, ComputeFeatures(flow, rows, noise));
  BFLOW_ASSIGN_OR_RETURN(Calibration calibration,
                         FitCalibration(features, flow.spec().event_size(),
                                        noise.kind == NoiseKind::kCenter ? "center" : "none"));
  if (!flow.spec().is_image()) {  // where in time
    BFLOW_ASSIGN_OR_RETURN(calibration.attribution,
                           CalibrateAttribution(flow, rows, features.status));
  }
  return std::optional<Calibration>(std::move(calibration));
}

std::map<std::string, std::string> ModelCard(const RunDescription& run, const FlowSpec& spec,
                                             const TrainingEvents& data,
                                             const std::optional<Calibration>& calibration) {
  std::map<std::string, std::string> card = data.CardFields();
  card["preset"] = run.preset;
  card["steps"] = absl::StrCat(run.steps);
  card["seed"] = absl::StrCat(run.seed);
  card["skipped_steps"] = absl::StrCat(run.skipped_steps);
  if (!run.ended.empty()) card["ended"] = run.ended;
  if (!run.fingerprint.empty()) card["run"] = run.fingerprint;
  if (run.validation_nll) {
    card["validation_nats_per_dim"] = absl::StrFormat("%.6f", *run.validation_nll);
  }
  AddLikelihood(run, spec, &card);
  card["calibration_windows"] =
      absl::StrCat(calibration ? static_cast<int64_t>(2 * calibration->n()) : 0);
  if (calibration && 2 * calibration->n() < kMinCalibrationWindows) {
    card["calibration_warning"] = absl::StrCat("fewer than ", kMinCalibrationWindows,
                                               " calibration windows: p-values are coarse");
  }
  card["source_version"] = kVersion;
  card["licence"] = run.licence;
  card["notes"] = run.notes;
  return card;
}

absl::Status SaveModel(FileSystem& files, const std::string& version_directory, Flow& flow,
                       const TrainingEvents& data, const RunDescription& run,
                       const std::optional<Calibration>& calibration) {
  BFLOW_ASSIGN_OR_RETURN(FlowTensors tensors, CopyFlowTensors(flow));
  BFLOW_RETURN_IF_ERROR(CheckWeights(flow.spec(), tensors));
  CheckpointToWrite checkpoint;
  BFLOW_ASSIGN_OR_RETURN(
      checkpoint.self_test,
      MakeSelfTest(flow, calibration ? &*calibration : nullptr, SelfTestRows(flow.spec(), data)));
  checkpoint.spec = flow.spec();
  checkpoint.tensors = tensors.tensors;
  checkpoint.calibration = calibration;
  checkpoint.card = ModelCard(run, flow.spec(), data, calibration);
  checkpoint.producer = absl::StrCat("bflow-train ", kVersion);
  return WriteCheckpoint(files, version_directory, checkpoint);
}

int64_t SelfTestRowCount(const FlowSpec& spec) {
  constexpr int64_t kRows = 16;
  const int64_t row_bytes = spec.event_size() * static_cast<int64_t>(sizeof(float));
  return std::clamp<int64_t>(kMaxSelfTestBytes / 2 / row_bytes, 1, kRows);
}

bool IsCheckpointOf(const std::string& version_directory, const std::string& fingerprint) {
  const absl::StatusOr<std::string> text =
      ReadFile(JoinPath(version_directory, kManifestFile), kMaxManifestBytes);
  if (!text.ok()) return false;
  const absl::StatusOr<Manifest> manifest = ParseManifest(*text);
  if (!manifest.ok()) return false;
  const auto run = manifest->card.find("run");
  return run != manifest->card.end() && run->second == fingerprint;
}

int64_t NextFreeVersion(const std::string& repository, const std::string& model) {
  int64_t newest = 0;
  absl::StatusOr<std::vector<std::string>> names = ListDirectory(JoinPath(repository, model));
  if (!names.ok()) return 1;
  for (const std::string& name : *names) {
    if (std::optional<int64_t> version = ParseVersion(name)) newest = std::max(newest, *version);
  }
  return newest + 1;
}

}  // namespace bflow
