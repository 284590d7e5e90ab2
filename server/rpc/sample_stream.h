// StreamSample: draws a request's rows in chunks of at most stream.max_chunk_bytes. While one chunk
// is written the next is computed; no more than that is held, whatever num_samples is.
#ifndef BFLOW_SERVER_RPC_SAMPLE_STREAM_H_
#define BFLOW_SERVER_RPC_SAMPLE_STREAM_H_

#include <memory>
#include <optional>

#include "butterflyflow/v1/flow.pb.h"
#include "server/rpc/ordered_stream.h"

namespace bflow {

class SampleStream final : public OrderedStream<butterflyflow::v1::StreamSampleResponse> {
 public:
  using Port = StreamPort<butterflyflow::v1::StreamSampleResponse>;

  SampleStream(const ServiceContext& services, const Metrics::RpcMetrics& rpc, SteadyTime deadline,
               Port* port);

  // Checks 1 to 6, then the first chunk.
  void Start(const butterflyflow::v1::SampleRequest& request);

 private:
  bool WantsMore() const override { return !starting_; }
  void MoreWillStart() override;
  void StartMore() override;

  absl::Status Check(const butterflyflow::v1::SampleRequest& request);
  void Run(const std::shared_ptr<Slot>& slot, const std::shared_ptr<CallPlan>& plan);

  std::optional<CallPlan> whole_;  // of all rows
  int64_t rows_per_chunk_ = 1;
  int64_t done_ = 0;  // rows of the chunks begun
  int64_t chunk_begin_ = 0;
  bool starting_ = false;  // a chunk is on its way to the queue
};

}  // namespace bflow

#endif  // BFLOW_SERVER_RPC_SAMPLE_STREAM_H_
