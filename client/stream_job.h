// Jobs over streams, taken up again where they stopped: a stream that ends with UNAVAILABLE (a
// server that restarts or drains, a connection that is too old or broken) is opened anew at the
// first row without an answer, for the same version of the model and with the same seed, so that
// the results are those of one unbroken stream. One thread, no locks: each job drives its stream
// through a completion queue, which also tells when no answer came in time.
#ifndef BFLOW_CLIENT_STREAM_JOB_H_
#define BFLOW_CLIENT_STREAM_JOB_H_

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "butterflyflow/v1/flow.grpc.pb.h"

namespace bflow::client {

// How long a job waits for its next answer, over all attempts to get it.
class Patience {
 public:
  explicit Patience(absl::Duration deadline) : deadline_(absl::ToChronoMilliseconds(deadline)) {
    Progress();
  }
  // An answer came: the wait starts anew.
  void Progress();
  WallTime limit() const { return limit_; }
  // After an attempt that ended so: true, after a pause, if another one is due. False: `*error` is
  // the job's, with the last refusal in place of a deadline that passed while the server refused.
  bool TryAgain(absl::Status* error);

 private:
  const std::chrono::milliseconds deadline_;
  WallTime limit_;
  std::chrono::milliseconds pause_{0};
  absl::Status refusal_;
};

struct ScoreStreamJob {
  butterflyflow::v1::StreamScoreRequest::Open open;  // resume_from is the job's own
  uint64_t chunks = 0;
  // Chunk i of the job; asked for again if its answer was lost.
  std::function<butterflyflow::v1::StreamScoreRequest::Chunk(uint64_t index)> chunk;
  // Before the first result of each stream.
  std::function<absl::Status(const butterflyflow::v1::StreamScoreResponse::Opened&)> opened;
  // Each chunk's answer once, in order; its error ends the job.
  std::function<absl::Status(const butterflyflow::v1::StreamScoreResponse::Result&)> result;
};

absl::Status RunScoreStream(butterflyflow::v1::FlowService::Stub* stub, const ScoreStreamJob& job,
                            absl::Duration deadline);

// The request's rows once, in order; the callback's error ends the job.
absl::Status RunSampleStream(
    butterflyflow::v1::FlowService::Stub* stub, butterflyflow::v1::SampleRequest request,
    const std::function<absl::Status(const butterflyflow::v1::SampleResponse&)>& consume,
    absl::Duration deadline);

}  // namespace bflow::client

#endif  // BFLOW_CLIENT_STREAM_JOB_H_
