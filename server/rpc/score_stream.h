// StreamScore: reads chunks of rows, at most a window of them ahead of the answers, and answers
// each in order. A fault of one chunk (INVALID_ARGUMENT, RESOURCE_EXHAUSTED) is its Result.error;
// any other ends the stream after the answers before it. A full queue and full admission counters
// are waited out, so that flow control slows the client.
#ifndef BFLOW_SERVER_RPC_SCORE_STREAM_H_
#define BFLOW_SERVER_RPC_SCORE_STREAM_H_

#include <memory>
#include <string>

#include "butterflyflow/v1/flow.pb.h"
#include "server/rpc/ordered_stream.h"

namespace bflow {

class ScoreStream final : public OrderedStream<butterflyflow::v1::StreamScoreResponse> {
 public:
  using Port = StreamPort<butterflyflow::v1::StreamScoreResponse>;

  ScoreStream(const ServiceContext& services, const Metrics::RpcMetrics& rpc, SteadyTime deadline,
              Port* port);

  // Check 1, then the first read.
  void Start();
  // Where the port reads to.
  butterflyflow::v1::StreamScoreRequest* read_buffer() { return &buffer_; }
  // False: the client sends no more.
  void OnReadDone(bool ok);

 private:
  using Chunk = butterflyflow::v1::StreamScoreRequest::Chunk;
  using SlotPtr = std::shared_ptr<Slot>;

  bool WantsMore() const override { return !busy_; }
  void MoreWillStart() override { busy_ = true; }
  void StartMore() override;

  // True if the message was dealt with, false if its chunk goes on and reads on when it has room.
  bool Take(butterflyflow::v1::StreamScoreRequest* message);
  absl::Status Open(const butterflyflow::v1::StreamScoreRequest::Open& open);
  // The model and the operation as asked for, pinned. Fills `opened`.
  absl::Status Pin(const butterflyflow::v1::StreamScoreRequest::Open& open,
                   butterflyflow::v1::StreamScoreResponse::Opened* opened);
  absl::Status CheckData(const std::string& data) const;
  template <typename Result, typename Request>
  absl::Status BeginChunk(const SlotPtr& slot, const Request& like, Chunk* chunk);
  template <typename Result, typename Request>
  void RunChunk(const SlotPtr& slot, const Request& request, const std::shared_ptr<CallPlan>& plan);
  // The chunk's one answer.
  void Answer(const SlotPtr& slot, const absl::Status& status);
  void ReadOn();

  butterflyflow::v1::StreamScoreRequest buffer_;
  bool busy_ = false;  // reading, or the chunk that was read has no room yet

  // Set by Open; then only read.
  bool opened_ = false;
  bool want_anomaly_ = false;
  butterflyflow::v1::LogLikelihoodRequest likelihood_;  // a chunk's request but for its rows
  butterflyflow::v1::AnomalyScoreRequest anomaly_;

  uint64_t next_index_ = 0;
};

}  // namespace bflow

#endif  // BFLOW_SERVER_RPC_SCORE_STREAM_H_
