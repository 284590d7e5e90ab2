// The one place where the server meets the tensor library.
#ifndef BFLOW_SERVER_APP_FLOW_LOADER_H_
#define BFLOW_SERVER_APP_FLOW_LOADER_H_

#include "server/app/run.h"

namespace bflow {

// Call before any thread is started: it sets the tensor library's threads for the process.
Backend FlowBackend();

}  // namespace bflow

#endif  // BFLOW_SERVER_APP_FLOW_LOADER_H_
