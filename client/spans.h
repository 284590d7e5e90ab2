// Runs of flagged windows, merged: what a person looks at is the stretch of time, not the window.
#ifndef BFLOW_CLIENT_SPANS_H_
#define BFLOW_CLIENT_SPANS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "client/flow_client.h"

namespace bflow::client {

// A scored window: where it lies, and how many of its channels never change.
struct WindowPlace {
  std::string segment;
  int64_t index = 0;        // in the record's grid
  int64_t start_frame = 0;  // in the record
  bool constant_channel = false;
};

// Frames [begin, end) of a record, covered by flagged windows that touch or overlap.
struct Span {
  size_t record = 0;
  int64_t begin = 0;
  int64_t end = 0;
  int64_t windows = 0;
  double score = 0;     // the largest of its windows
  double p_value = 1;   // the smallest of its windows
  std::string reasons;  // of the window with the largest score
  size_t top_row = 0;   // that window's place in the result
};

// "flat_run/ABP=12.3;step/II=4.1", largest first; empty if there are none.
std::string ReasonText(const RowAnomaly& row, const std::vector<std::string>& feature_names);

// Spans of one record in time order. Windows that were not scored (row status) belong to none.
std::vector<Span> MergeFlagged(size_t record, const std::vector<WindowPlace>& places,
                               const AnomalyResult& result, int64_t window_frames);

// The `count` spans of the highest score, descending; equal scores keep their order in time.
std::vector<Span> TopSpans(std::vector<Span> spans, size_t count);

}  // namespace bflow::client

#endif  // BFLOW_CLIENT_SPANS_H_
