"""`python -m seqrec.serve BUNDLE`: what experiments/serve.py runs, where there is no checkout."""

import sys

from seqrec import runtime
from seqrec.serve.config import ServeConfig
from seqrec.serve.server import serve

if __name__ == "__main__":
    sys.argv[0] = "python -m seqrec.serve"
    runtime.run_script(serve, ServeConfig)
