"""Read the weights files named on stdin, one per line, and answer each with a line of JSON: the outcome and its cost."""

import json
import resource
import sys
import time
from pathlib import Path

from edcompress.core.recipe.loading import read_recipe
from edcompress.networks.build import read_network
from edcompress.networks.weight_files import read_state_dict

MOST = 5 * 2**30  # enough to be seen above 2 GiB, too little to harm the machine


def outcome(path: Path, *, fit: bool) -> tuple[str, str]:
    """Return the class of the error and its text; empty where the file was read."""
    try:
        read_network(read_recipe("digits").network_spec, path) if fit else read_state_dict(path)
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


resource.setrlimit(resource.RLIMIT_DATA, (MOST, MOST))
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    began = time.monotonic()
    kind, text = outcome(Path(request["path"]), fit=request["fit"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"kind": kind, "text": text, "seconds": time.monotonic() - began, "peak": peak}), flush=True)
