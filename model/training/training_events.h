// What a training needs of its data, whatever the data are: events (windows of records, images) in
// four parts, as codes in the order of the flow's event, and the order in which they train.
// Torch-free.
#ifndef BFLOW_MODEL_TRAINING_TRAINING_EVENTS_H_
#define BFLOW_MODEL_TRAINING_TRAINING_EVENTS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/checkpoint/flow_spec.h"

namespace bflow {

enum class DataPart { kTrain = 0, kValidation = 1, kCalibration = 2, kTest = 3 };

struct SplitFractions {
  double train = 0.64;
  double validation = 0.08;
  double calibration = 0.08;
};

// The training events of one run, one after the other. What comes next follows from the seed, from
// `row` and from the state of `generator` alone, so that a run can go on where another ended.
class TrainingDraws {
 public:
  virtual ~TrainingDraws() = default;

  // Codes of event number `row` of the run (0, 1, ...), [event...]. Errors: InvalidArgument (data
  // that cannot train).
  virtual absl::Status Draw(uint64_t row, std::mt19937_64& generator, float* codes) = 0;
};

class TrainingEvents {
 public:
  virtual ~TrainingEvents() = default;

  virtual const std::vector<ChannelSpec>& channels() const = 0;
  virtual std::vector<int64_t> event_shape() const = 0;
  virtual double frames_per_second() const = 0;  // 0 of images
  // What an event is called, in the plural: "windows".
  virtual std::string noun() const = 0;
  // Events of a part.
  virtual int64_t Count(DataPart part) const = 0;
  // Codes of events of a part, one after the other; at most `most` of them, evenly chosen. Events
  // that say nothing of a signal (a constant channel of a window) are left out if `skip_constant`.
  virtual std::vector<float> Gather(DataPart part, bool skip_constant, int64_t most,
                                    int64_t* rows) const = 0;
  // Of each channel the k of the codes lo + k step that the training part has, ascending; none of
  // data that do not tell.
  virtual std::vector<std::vector<int64_t>> SeenCodes() const { return {}; }
  // These data must outlive the result. Errors: InvalidArgument (the batch is larger than the
  // training part where a batch holds every event once).
  virtual absl::StatusOr<std::unique_ptr<TrainingDraws>> Draws(uint64_t seed,
                                                               int64_t batch) const = 0;
  // How many training events, without noise, initialise a flow; 0: the first batch does, with it.
  virtual int64_t InitialisationRows() const = 0;
  // What decides the training besides the codes of the events, for the fingerprint of a run.
  virtual std::string Description() const { return ""; }
  // What a model card says of the data.
  virtual std::map<std::string, std::string> CardFields() const = 0;
};

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_TRAINING_EVENTS_H_
