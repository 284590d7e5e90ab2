#include "client/cli/commands.h"

int main(int argc, char** argv) { return bflow::RunBflow(argc, argv); }
