// The standard process_* metrics, read from /proc at each scrape.
#ifndef BFLOW_SERVER_METRICS_PROCESS_COLLECTOR_H_
#define BFLOW_SERVER_METRICS_PROCESS_COLLECTOR_H_

#include <vector>

#include "prometheus/metric_family.h"

namespace bflow {

// A figure that cannot be read is left out.
std::vector<prometheus::MetricFamily> CollectProcessMetrics();

}  // namespace bflow

#endif  // BFLOW_SERVER_METRICS_PROCESS_COLLECTOR_H_
