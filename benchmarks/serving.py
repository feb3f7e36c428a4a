"""Times what serves: requests over HTTP, one more event of a session, and large catalogues.

python benchmarks/serving.py load --json load.json                # the server under load, and reloads; some 15 minutes
python benchmarks/serving.py append --json append.json            # one more event against the history read anew
python benchmarks/serving.py catalogues --json catalogues.json    # exact, int8 and ANN lists of up to a million items
"""

import importlib
import sys

from seqrec import runtime

PARTS = {"load": "serving_load", "append": "serving_append", "catalogues": "serving_catalogues"}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in PARTS:
        print(__doc__, file=sys.stderr)
        sys.exit(0 if sys.argv[1:] in (["--help"], ["-h"]) else 2)
    part = sys.argv.pop(1)
    module = importlib.import_module(PARTS[part])
    sys.argv[0] += f" {part}"
    runtime.run_script(module.main, module.Config)
