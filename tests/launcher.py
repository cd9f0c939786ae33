"""How a command is started in two processes."""

import sys

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
EDCOMPRESS = ("-m", "edcompress")
