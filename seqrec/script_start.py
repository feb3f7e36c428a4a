"""While a script imports its libraries, Ctrl-C ends the process as the system does.

Python would raise KeyboardInterrupt inside an import, which some libraries swallow and others crash on. The scripts in
experiments/ import seqrec before anything large, and seqrec imports this module first; `runtime.run_script` then
handles signals itself. Other programs, and notebooks, keep Python's own handler.
"""

import os
import signal
import sys
import threading


def is_experiment() -> bool:
    """Whether this process runs a script of a folder experiments/."""
    script = os.path.abspath(getattr(sys.modules.get("__main__"), "__file__", None) or "")
    return os.path.basename(os.path.dirname(script)) == "experiments"


if (
    is_experiment()
    and threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
