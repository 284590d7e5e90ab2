#include "client/cli/commands.h"

int main(int argc, char** argv) { return bflow::client::RunBflow(argc, argv); }
