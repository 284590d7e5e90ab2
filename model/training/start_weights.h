// Weights of a new flow other than those that its layers draw.
#ifndef BFLOW_MODEL_TRAINING_START_WEIGHTS_H_
#define BFLOW_MODEL_TRAINING_START_WEIGHTS_H_

#include "model/flow/flow.h"

namespace bflow {

// Every 2x2 of every butterfly becomes the identity. Before the flow is initialised from data.
void SetButterfliesToIdentity(Flow& flow);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_START_WEIGHTS_H_
