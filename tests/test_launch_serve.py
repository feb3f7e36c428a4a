"""The files that start a server elsewhere agree with the server, with the package and with each other."""

import json
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SERVE = ROOT / "launch" / "serve"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
DOCKERFILE = (SERVE / "Dockerfile").read_text()
HASH = "0123456789ab"


def instruction(name: str) -> str:
    """What the last instruction of the Dockerfile by this name says."""
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.M)[-1]


def command() -> list[str]:
    return json.loads(instruction("CMD"))


def compose() -> dict:
    return yaml.safe_load((SERVE / "compose.yaml").read_text())["services"]["serve"]


def manifests() -> tuple[dict, dict]:
    """The deployment and the service."""
    deployment, service = yaml.safe_load_all((SERVE / "kubernetes.yaml").read_text())
    return deployment, service


def test_the_image_installs_extras_that_there_are_and_copies_files_that_are_sent_to_docker():
    assert instruction("ARG") == "EXTRAS=serve"
    assert set(re.findall(r"\w+", " ".join(re.findall(r"EXTRAS=([\w,]+)", (SERVE / "README.md").read_text())))) <= {
        *EXTRAS
    }
    sent = {line[1:] for line in (SERVE / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {word for words in re.findall(r"^COPY (?:--\S+ )?(.*) \S+$", DOCKERFILE, re.M) for word in words.split()}
    assert copied == sent
    assert all((ROOT / name).exists() for name in copied - {"experiments/serve.py"})


def test_the_image_and_the_pods_are_of_one_user_without_rights():
    (uid,) = re.findall(r"useradd --uid (\d+)", DOCKERFILE)
    assert instruction("USER") == uid
    deployment, _ = manifests()
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == int(uid)
    assert pod["securityContext"]["runAsNonRoot"]
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")} == {"/tmp"}
    assert compose()["read_only"]
    # What is written is written there.
    assert {
        path.split("/")[1] for path in re.findall(r"(?:JAX_COMPILATION_CACHE_DIR|SEQREC_CACHE)=(\S+)", DOCKERFILE)
    } == {"tmp"}


def test_ports_and_health_routes_agree():
    port = command()[command().index("--port") + 1]
    assert instruction("EXPOSE") == port
    deployment, service = manifests()
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert f"--port={port}" in container["command"]
    assert [each["containerPort"] for each in container["ports"]] == [int(port)]
    assert [each["targetPort"] for each in service["spec"]["ports"]] == [each["name"] for each in container["ports"]]
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert compose()["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"--port={port}" in compose()["command"]
    probes = {container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert probes == set(re.findall(rf"http://127.0.0.1:{port}(/\w+)'", DOCKERFILE)) == {"/healthz"}
    assert f" {port}\n" in (SERVE / "serve.sh").read_text()
    assert f"--container-ports={port} " in (SERVE / "vertex.sh").read_text()


def test_what_ends_the_server_waits_until_it_has_drained():
    deployment, _ = manifests()
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (drain,) = (int(word.partition("=")[2]) for word in container["command"] if word.startswith("--drain-seconds="))
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert pod["terminationGracePeriodSeconds"] >= pause + drain + 5
    assert int(compose()["stop_grace_period"].removesuffix("s")) >= drain + 5


def test_the_server_understands_what_it_is_started_with():
    config = pytest.importorskip("seqrec.serve.config")
    schema = pytest.importorskip("seqrec.serve.schema")
    from seqrec import runtime

    deployment, _ = manifests()
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    composed = [re.sub(r"\$\{.*\}", "bundle", word) for word in compose()["command"]]
    of_sagemaker = shlex.split((SERVE / "serve.sh").read_text().splitlines()[-1])[1:]
    for words in (command(), container["command"], composed, of_sagemaker):
        given = runtime.parse(config.ServeConfig, words[2:])
        assert (given.host, given.port) == ("0.0.0.0", 8080)
        assert given.drain_seconds == config.ServeConfig.drain_seconds == 10
    paths = {route.path for route in schema.routes()}
    assert {"/healthz", "/ping", "/invocations", "/metrics"} <= paths
    assert config.cloud_routes({}).port == 8080


@pytest.fixture
def bundle(tmp_path) -> Path:
    directory = tmp_path / "my bundle"
    directory.mkdir()
    (directory / "manifest.json").write_text(json.dumps({"content_hash": HASH + "cdef"}, indent=2))
    (directory / "weights.safetensors").touch()
    return directory


def dry_run(script: str, bundle: Path) -> list[list[str]]:
    """The commands that the script would run, as words."""
    dry = subprocess.run([SERVE / script, "--dry-run", bundle], capture_output=True, text=True, timeout=60)
    assert (dry.returncode, dry.stderr) == (0, "")
    return [shlex.split(line) for line in dry.stdout.splitlines()]


def test_sagemaker_gets_a_model_of_the_bundle_and_an_endpoint_of_the_model(bundle):
    lines = dry_run("sagemaker.sh", bundle)
    assert [line[2] for line in lines[2:]] == [
        *("create-model", "create-endpoint-config", "create-endpoint", "wait"),
    ]
    assert lines[0][-2:] == [str(bundle), "."]
    data = lines[1][-1]
    assert HASH in data
    assert f",ModelDataUrl={data}" in lines[2][-1]
    assert all(f"seqrec-{HASH}" in line for line in lines[2:5])
    # The archive that a dry run would have written is gone.
    assert not Path(lines[1][3]).exists()


def test_an_endpoint_that_is_there_moves_to_a_bundle_that_was_sent_before(bundle, tmp_path):
    (tmp_path / "aws").write_text('#!/bin/sh\necho "$2" >> calls\n')
    (tmp_path / "aws").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run([SERVE / "sagemaker.sh", bundle], cwd=tmp_path, env=environment, check=True, timeout=60)
    assert (tmp_path / "calls").read_text().split() == [
        *("describe-endpoint-config", "describe-endpoint", "update-endpoint", "wait")
    ]


def test_vertex_gets_a_model_of_the_bundle_and_the_routes_of_the_server(bundle):
    copy, upload, create, deploy = dry_run("vertex.sh", bundle)
    assert copy[-2:] == [str(bundle), f"gs://my-bucket/seqrec-{HASH}"]
    assert f"--artifact-uri={copy[-1]}" in upload
    assert {"--container-health-route=/healthz", "--container-predict-route=/predict"} <= set(upload)
    (started,) = (word.partition("=")[2].split(",") for word in upload if word.startswith("--container-command="))
    assert started[:2] == ["sh", "-c"]
    assert shlex.split(started[2])[1:4] == ["python", "experiments/serve.py", "$AIP_STORAGE_URI"]
    assert len(started) == 3
    assert create[2:4] == ["endpoints", "create"]
    assert f"--model=ID-OF-seqrec-{HASH}" in deploy


@pytest.mark.parametrize("script", ["sagemaker.sh", "vertex.sh"])
def test_what_is_no_bundle_is_not_sent(script, tmp_path):
    for arguments in ([], [tmp_path], ["--dry-run", tmp_path, "more"]):
        refused = subprocess.run([SERVE / script, *arguments], capture_output=True, text=True, timeout=60)
        assert refused.returncode == 2
        assert refused.stderr.startswith("usage: ")
