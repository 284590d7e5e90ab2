// bflow-server: loads ButterflyFlow models and answers log-likelihood, anomaly-score and sampling
// calls over gRPC. Everything it does stands in server/app/run.h.
#include "server/app/flow_loader.h"
#include "server/app/run.h"

int main(int argc, char** argv) { return bflow::RunServer(argc, argv, bflow::FlowBackend()); }
