"""What several tests share."""

import contextlib
import functools
import gc
import importlib
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path

# One folder of compiled programs for all processes of a test run, scripts too; jax reads this when it is imported.
COMPILED = tempfile.mkdtemp(prefix="seqrec-compiled-") if "JAX_COMPILATION_CACHE_DIR" not in os.environ else None
if COMPILED is not None:
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": COMPILED,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
# Where in the source each operation was called takes time to write into programs, and no test reads it.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

import examples  # noqa: E402, F401 (sets how many are drawn)
import garbage  # noqa: E402
import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

ROOT = Path(__file__).parents[1]


SLOW_FILES = (
    "tests/experiments/",
    "tests/test_sharding.py",
    "tests/data/test_engines.py",
    "tests/encoders/test_mesh.py",
)
SPARK_FILES = ("tests/data/test_engines.py", "tests/abtest/test_spark_sql.py")


def pytest_collection_modifyitems(items):
    """Puts the files that take longest first: of what comes last one process may be left with all."""
    items.sort(key=lambda item: not item.nodeid.startswith(SLOW_FILES))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Gives both files that ask Spark to one process, since a Spark takes ten seconds to start."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class OneSpark(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "spark" if file in SPARK_FILES else file

    return OneSpark(config, log)


def pytest_configure():
    """Lets programs share an MLIR context, which takes a quarter of the time of a small one to make.

    Contexts are of jax's own; where they have moved, each program has its own again. What a context has met it keeps,
    hence a new one after 200 programs.
    """
    with contextlib.suppress(ImportError, AttributeError):
        from jax._src.interpreters import mlir

        make, of_thread = mlir.make_ir_context, threading.local()

        def shared():
            n_programs = getattr(of_thread, "n_programs", 0)
            if n_programs % 200 == 0:
                of_thread.context = make()
            of_thread.n_programs = n_programs + 1
            return of_thread.context

        mlir.make_ir_context = shared


def share_type_checks() -> None:
    """Lets functions that are defined in others have their types checked by what was made for the first of them.

    Each time that such a function is defined, as in every step of a loop and every trace of a loss, jaxtyping asks for
    a new check of the same signature, which takes 2 ms to make. Where its functions have moved, it goes on so.
    """
    with contextlib.suppress(ImportError, AttributeError):
        from jaxtyping import _decorator

        make, check = _decorator._make_fn_with_signature, _decorator._apply_typechecker
        made = functools.cache(make)

        def make_once(*args, **kwargs):
            try:
                return made(*args, **kwargs)
            except TypeError:  # a default value, such as an array, that cannot be looked up
                return make(*args, **kwargs)

        _decorator._make_fn_with_signature, _decorator._apply_typechecker = make_once, functools.cache(check)


share_type_checks()


def pytest_sessionstart(session):
    """Lets each process of a whole run begin with other modules.

    All import all of them, in the same order: what one compiles from its source, with type checks, the others would
    compile at the same moment. So they find it compiled.
    """
    worker = getattr(session.config, "workerinput", None)
    if worker is None or "seqrec" not in session.config.args:
        return
    names = sorted(".".join(file.relative_to(ROOT).with_suffix("").parts) for file in ROOT.glob("seqrec/**/*.py"))
    first = len(names) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
    for name in [*names[first:], *names[:first]]:
        with contextlib.suppress(ImportError):  # of an extra that is not there
            importlib.import_module(name.removesuffix(".__init__"))


def pytest_collection_finish():
    garbage.collect_seldom()


def pytest_unconfigure():
    """Removes the compiled programs; of several processes the one that made the folder does."""
    if COMPILED is not None:
        shutil.rmtree(COMPILED, ignore_errors=True)


@pytest.fixture(autouse=True, scope="module")
def let_go_of_compiled_programs():
    """Jax keeps every program of a process: 4 GB over the whole suite. To let go of them takes a second."""
    yield
    if resident_bytes() > 2.5e9:
        jax.clear_caches()
        gc.collect()


def resident_bytes() -> float:
    """The memory that this process holds; beyond all bounds where the system does not say so."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else float("inf")


@pytest.fixture
def unchecked():
    """Switches off the type checks that only tests have, so that a function's own refusal is seen."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data that is not ours to ship; tests that need it skip where it is absent."""
    path = Path(os.environ.get("SEQREC_DATA") or ROOT.parent / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"no data at {path}; set SEQREC_DATA to the folder that holds ml-1m/ and others")
    return path


@pytest.fixture
def write(tmp_path):
    """Writes a file of text or bytes and returns its path."""

    def write_file(content, name="data.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


# Most of a short Spark's time goes into loading and compiling its own classes.
QUICK_JAVA = (
    "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:+IgnoreUnrecognizedVMOptions -XX:+UnlockDiagnosticVMOptions"
    " -XX:-BytecodeVerificationRemote"
)


@pytest.fixture(scope="session")
def spark():
    """One small Spark for all tests; they skip without PySpark or Java."""
    sql = pytest.importorskip("pyspark.sql")
    if shutil.which("java") is None:
        pytest.skip("PySpark needs Java, and there is none")
    # The Python that its executors run to write shards.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    session = (
        sql.SparkSession.builder.master("local[1]")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.ui.enabled", "false")
        # Of so few rows, compiling and planning anew would take most of the time.
        .config("spark.sql.codegen.wholeStage", "false")
        .config("spark.sql.adaptive.enabled", "false")
        .config("spark.sql.codegen.factoryMode", "NO_CODEGEN")
        .config("spark.sql.constraintPropagation.enabled", "false")
        .config("spark.driver.extraJavaOptions", QUICK_JAVA)
        .config("spark.sql.session.timeZone", "America/New_York")
        .getOrCreate()
    )
    yield session
    session.stop()
