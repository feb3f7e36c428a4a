"""Facts about routes, asked in one process over ASGI."""

import asyncio
import json
import shutil
from pathlib import Path

import httpx
import msgspec
import pytest
from bundle import small_bundles
from bundle.small_bundles import kept, loaded

from seqrec.serve import schema
from seqrec.serve.app import make_app
from seqrec.serve.config import CloudRoutes, ServeConfig
from seqrec.serve.served import Served, serve_bundle
from seqrec.serve.service import Service
from serve.small_service import LIMITS, TRACKS, served

CLOUD = CloudRoutes(8080, "/health", "/predict")
OWN = ("127.0.0.1", 5)


def ask(steps, *, answering: Served | None = None, bundle: Path | None = None, client=OWN):
    """What `steps(client, service)` returns, of a server of its own."""

    async def main():
        config = ServeConfig(bundle or kept(), max_batch=1, limits=LIMITS)
        service = Service(answering or served(), config)
        transport = httpx.ASGITransport(make_app(service, CLOUD), client=client)
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as asking:
                return await steps(asking, service)
        finally:
            service.batcher.close()

    return asyncio.run(main())


def test_answers_are_those_of_the_bundle_that_they_name():
    histories = [["track-1", "track-2", "nobody knows"], [], ["track-9"]]

    async def steps(client, service):
        answer = await client.post("/recommend", json={"histories": histories, "k": 3, "exclude": ["track-6"]})
        again = await client.post("/invocations", json={"histories": histories, "k": 3, "exclude": ["track-6"]})
        metrics = (await client.get("/metrics")).text
        return answer.json(), again.json(), metrics

    answer, again, metrics = ask(steps)
    alone = loaded().recommend(histories, 3, exclude=["track-6"])
    assert answer == again
    assert answer["bundle"] == loaded().facts.content_hash
    assert answer["items"] == alone.items
    for row, own in zip(answer["scores"], alone.scores, strict=True):
        assert row == pytest.approx(own, rel=1e-5)
    assert (answer["n_unknown"], answer["is_popular"]) == ([1, 0, 0], [False, True, False])
    for line in (
        'seqrec_requests_total{route="/recommend",status="200"} 1.0',
        "seqrec_unknown_items_total 2.0",  # one in each of both requests
        "seqrec_popular_lists_total 2.0",
        "seqrec_batch_histories_sum 6.0",
        f'seqrec_bundle{{bundle="{loaded().facts.content_hash}",model="sasrec"}} 1.0',
    ):
        assert line in metrics.splitlines()


def test_predictions_have_the_lists_of_their_instances_of_which_some_may_allow():
    instances = [{"history": ["track-1"]}, {"history": ["track-2"], "allow": ["track-7", "track-8"]}]

    async def steps(client, service):
        body = {"instances": instances, "parameters": {"k": 2, "mask_seen": False}}
        return (await client.post("/predict", json=body)).json()["predictions"]

    predictions = ask(steps)
    first = loaded().recommend([["track-1"]], 2, mask_seen=False)
    second = loaded().recommend([["track-2"]], 2, mask_seen=False, allow=["track-7", "track-8"])
    assert [each["items"] for each in predictions] == [first.items[0], second.items[0]]
    assert {each["bundle"] for each in predictions} == {loaded().facts.content_hash}


def test_a_session_goes_on_by_its_new_events_and_an_unknown_one_asks_for_the_history():
    sessions = serve_bundle(loaded(), LIMITS, max_batch=1, n_sessions=2)

    async def steps(client, service):
        async def post(**body):
            return await client.post("/sessions", json={"user": "u", "k": 3, **body})

        unknown = await post(events=["track-4"])
        start = await post(history=["track-1", "track-2"], events=["track-3"])
        further = await post(events=["track-4"])
        return (
            unknown,
            start.json(),
            further.json(),
            await post(events=[], user="v", k=99),
            (await client.get("/openapi.json")),
        )

    unknown, start, further, wrong, document = ask(steps, answering=sessions)
    assert (unknown.status_code, wrong.status_code) == (409, 400)
    assert "no session is kept of 'u'; send the history" in unknown.json()["error"]
    for answer, history in ((start, TRACKS[:3]), (further, TRACKS[:4])):
        alone = loaded().recommend([history], 3)
        assert answer["items"] == alone.items[0]
        assert answer["scores"] == pytest.approx(alone.scores[0], rel=1e-5)
    assert "/sessions" in document.json()["paths"]


def of(**fields):
    return json.dumps({"histories": [["track-1"]], **fields}).encode()


REFUSED = {
    "k above the catalogue": (of(k=31), 400, "k=31"),
    "k above the limit": (of(k=21), 400, "above 20"),
    "k of nothing": (of(k=0), 400, "k=0"),
    "k of a text": (of(k="many"), 400, "k"),
    "an allow list that leaves nothing": (of(allow=["zzz"]), 400, "allow leaves history 0"),
    "an empty allow list": (of(allow=[]), 400, "allow leaves history 0"),
    "lists for another number of histories": (of(exclude=[["track-1"], ["track-2"]]), 400, "2 lists for 1"),
    "a list among items": (of(exclude=["track-1", ["track-2"]]), 400, "exclude"),
    "a long exclude list": (of(exclude=["track-1"] * 5), 400, "exclude holds 5"),
    "a long list of one history": (of(allow=[["track-1"] * 5]), 400, "allow holds 5"),
    "a long history": (of(histories=[["track-1"] * 6]), 400, "6 items"),
    "a million items": (b'{"histories": [[' + b'"a",' * 1_000_000 + b'"a"]]}', 413, "larger than 2,000"),
    "many histories": (of(histories=[[]] * 4), 400, "4 histories"),
    "no history": (of(histories=[]), 400, "histories is empty"),
    "times that are not read": (of(times=[[1.0]]), 400, "reads no times"),
    "a flag as an item": (of(histories=[[True]]), 400, "bool"),
    "a fraction as an item": (of(histories=[[1.5]]), 400, "histories"),
    "another field": (of(histroies=[]), 400, "histroies"),
    "no field": (b"{}", 400, "histories"),
    "a list": (b"[]", 400, "object"),
    "no JSON": (b"histories", 400, "JSON"),
    "half of it": (of()[:-1], 400, "truncated"),
    "nothing": (b"", 400, "JSON|truncated"),
    "invalid UTF-8": (b'{"histories": [["\xff"]]}', 400, "utf-8|UTF-8"),
    "NaN": (b'{"histories": [["track-1"]], "k": NaN}', 400, "invalid"),
    "deep JSON": (b'{"histories": ' + b"[" * 1_900, 400, "array|nested"),
    "deep JSON in an unknown field": (b'{"a": ' + b"[" * 1_900, 400, "unknown|nested"),
    "a huge number": (b'{"histories": [["track-1"]], "k": 1' + b"0" * 400 + b"}", 400, "k|number"),
}


def test_what_cannot_be_answered_is_refused_in_one_line_and_the_server_goes_on():
    async def steps(client, service):
        headers = {"content-type": "application/json"}
        refusals = {
            name: await client.post("/recommend", content=body, headers=headers) for name, (body, *_) in REFUSED.items()
        }
        return refusals, await client.post("/recommend", json={"histories": [["track-1"]]}), await client.get("/ping")

    refusals, after, ping = ask(steps)
    documented = schema.openapi(schema.routes(), version="1")["paths"]["/recommend"]["post"]["responses"]
    for name, (_, status, reason) in REFUSED.items():
        answer = refusals[name]
        error = msgspec.json.decode(answer.content, type=schema.Refusal, strict=True).error
        assert answer.status_code == status, (name, error)
        assert "\n" not in error
        assert any(word in error for word in reason.split("|")), (name, error)
        assert str(status) in documented
    assert (after.status_code, ping.status_code) == (200, 200)


@pytest.mark.parametrize("seconds", [[-1, 5], [5, 3], [1e300, 1e301], [1]])
def test_times_that_are_none_are_refused(seconds):
    reads_times = served()._replace(bundle=small_bundles.replace_facts(loaded(), times="query"))

    async def steps(client, service):
        return await client.post("/recommend", json={"histories": [["track-1"]], "times": [seconds]})

    answer = ask(steps, answering=reads_times)
    assert answer.status_code == 400
    assert "times[0]" in answer.json()["error"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_another_type_than_json_is_refused(kind):
    async def steps(client, service):
        return await client.post("/recommend", content=of(), headers={} if kind is None else {"content-type": kind})

    answer = ask(steps)
    assert answer.status_code == 415
    assert "Content-Type: application/json" in answer.json()["error"]


def test_a_body_that_comes_slowly_or_grows_is_refused_before_it_waits_for_a_call():
    async def slowly():
        yield b'{"histories"'
        await asyncio.sleep(5)

    async def growing():
        for _ in range(100):
            yield b"[" * 100

    async def steps(client, service):
        headers = {"content-type": "application/json"}
        answers = [await client.post("/recommend", content=body(), headers=headers) for body in (slowly, growing)]
        return [(each.status_code, each.headers["connection"]) for each in answers], service.metrics.text().decode()

    # httpx hands over a body only when the application asks for it, as a server does.
    statuses, metrics = ask(steps)
    assert statuses == [(408, "close"), (413, "close")]
    assert "seqrec_batch_histories_count 0.0" in metrics


def test_every_documented_route_is_served_and_every_served_one_documented():
    async def steps(client, service):
        app = make_app(service, CLOUD)
        document = (await client.get("/openapi.json")).json()
        gets = {path: await client.get(path) for path, methods in document["paths"].items() if "get" in methods}
        wrong = {path: await client.delete(path) for path in document["paths"]}
        return app.routes, document, gets, wrong, await client.get("/nowhere")

    routes, document, gets, wrong, nowhere = ask(steps)
    served_methods = {(route.path, method.lower()) for route in routes for method in route.methods - {"HEAD"}}
    assert {(path, method) for path, methods in document["paths"].items() for method in methods} == served_methods
    assert {path for path, _ in served_methods} >= {"/health", "/predict", "/ping", "/invocations", "/recommend"}
    for path, answer in gets.items():
        (kind,) = document["paths"][path]["get"]["responses"]["200"]["content"]
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
    assert {each.status_code for each in wrong.values()} == {405}
    assert nowhere.status_code == 404
    assert all("error" in each.json() for each in (nowhere, *wrong.values()))
    fields = document["components"]["schemas"]["Recommend"]["properties"]
    assert set(fields) == {"histories", "k", "exclude", "allow", "times", "mask_seen"}


def test_a_new_bundle_answers_from_its_reload_on_and_a_damaged_one_never(tmp_path):
    directory, new, model = tmp_path / "bundle", tmp_path / "new", small_bundles.a_model()
    small_bundles.write(new, model, small_bundles.random_params(model, seed=1))
    shutil.copytree(kept(), directory)

    def replace():
        shutil.rmtree(directory)
        shutil.copytree(new, directory)

    async def steps(client, service):
        before = (await client.get("/healthz")).json()["bundle"]
        unchanged = await client.post("/reload")
        replace()
        (directory / "weights.safetensors").write_bytes(b"?")
        damaged = await client.post("/reload")
        still = (await client.post("/recommend", json={"histories": [["track-1"]]})).json()["bundle"]
        replace()
        changed = await client.post("/reload")
        after = (await client.post("/recommend", json={"histories": [["track-1"]]})).json()
        return before, unchanged, damaged, still, changed, after, (await client.get("/metrics")).text

    before, unchanged, damaged, still, changed, after, metrics = ask(steps, bundle=directory)
    assert unchanged.json() == {"bundle": before, "changed": False}
    assert (damaged.status_code, still) == (400, before)
    assert "damaged" in damaged.json()["error"]
    assert changed.json() == {"bundle": after["bundle"], "changed": True}
    assert after["bundle"] != before
    assert after["items"] == small_bundles.load_bundle(directory).recommend([["track-1"]]).items
    assert metrics.count("seqrec_bundle{") == 1
    for result in ("unchanged", "failed", "changed"):
        assert f'seqrec_reloads_total{{result="{result}"}} 1.0' in metrics


@pytest.mark.parametrize(
    ("client", "headers"),
    [(("10.0.0.7", 5), {}), (OWN, {"x-forwarded-for": "10.0.0.7"}), (OWN, {"origin": "http://a"})],
)
def test_only_this_machine_may_ask_for_a_reload(client, headers):
    async def steps(asking, service):
        return (await asking.post("/reload", headers=headers)).status_code

    assert ask(steps, client=client) == 403


def test_a_server_that_ends_is_not_healthy_and_closes_connections_with_its_answers():
    async def steps(client, service):
        service.is_draining = True
        answer = await client.post("/recommend", json={"histories": [["track-1"]]})
        return answer.status_code, answer.headers["connection"], (await client.get("/healthz")).status_code

    assert ask(steps) == (200, "close", 503)
