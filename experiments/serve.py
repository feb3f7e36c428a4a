"""Answers requests for recommendations over HTTP, from a bundle that export.py wrote.

    python experiments/serve.py bundle
    curl -H 'Content-Type: application/json' -d '{"histories": [[1270, 260]], "k": 5}' http://127.0.0.1:8080/recommend

SIGHUP reads the bundle anew, SIGTERM finishes what is under way and ends. docs/serving.md names all routes.
"""

from seqrec import runtime
from seqrec.serve.config import ServeConfig
from seqrec.serve.server import serve

if __name__ == "__main__":
    runtime.run_script(serve, ServeConfig)
