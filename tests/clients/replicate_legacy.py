"""Drives a server with the hand-written Python clients, replicate 0.25 to 1.0: see README.md."""

import asyncio
import base64
import hashlib
import importlib.metadata
import io
import json
import os
import tempfile
import time
from pathlib import Path

import httpx
import replicate
from checks import (
    BASES, CONFIG, MODEL, NAME, OWNER, PICTURE, REF, URL, VERSION, Receiver, check, endless, is_png, named, of_data_uri,
    progress_is_told, raises, run, slow, small, until,
)
from replicate.exceptions import ModelError, ReplicateError

CLIENT = tuple(int(part) for part in CONFIG["client"].split("."))
assert importlib.metadata.version("replicate") == CONFIG["client"]
HAS_WAIT = HAS_FILES = HAS_VALIDATOR = CLIENT >= (0, 34)
HAS_FILE_OUTPUT = CLIENT >= (1, 0)


def client_for(url=URL, token="any", base=""):
    client = replicate.Client(api_token=token, base_url=url + base)
    client.poll_interval = 0.05
    return client


client = client_for()


def behind(url):
    """The picture behind a URL, which needs no token, or within a data URI."""
    if url.startswith("data:"):
        return of_data_uri(url)
    answer = httpx.get(url)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png"), answer
    return answer.content


def content(output):
    """The bytes of one output, however this client hands it out."""
    if HAS_FILE_OUTPUT:
        assert type(output).__name__ == "FileOutput", f"{output!r} cannot be read"
        return output.read()
    assert isinstance(output, str), output
    return behind(output)


def are_pictures(outputs, count=1, **size):
    assert isinstance(outputs, list) and len(outputs) == count, outputs
    for output in outputs:
        is_png(content(output), **size)


def create(input, to=client, **params):
    return to.predictions.create(version=VERSION, input=input, **params)


def over(base):
    @check(f"run versioned over {named(base)}")
    def versioned():
        are_pictures(client_for(base=base).run(REF, input=small()))

    @check(f"run unversioned over {named(base)}")
    def unversioned():
        are_pictures(client_for(base=base).run(MODEL, input=small()))

    @check(f"URLs over {named(base)}")
    def urls():
        there = client_for(base=base)
        made = create(small(), there)
        assert made.urls["get"] == f"{URL}/v1/predictions/{made.id}", made.urls
        assert there._request("GET", made.urls["get"]).json()["id"] == made.id
        assert there.predictions.get(made.id).id == made.id


for base in BASES:
    over(base)


@check("base from the environment")
def from_environment():
    os.environ["REPLICATE_BASE_URL"] = URL
    assert replicate.Client(api_token="any").models.get(MODEL).name == NAME


@check("run as asked")
def as_asked():
    are_pictures(client.run(REF, input=small(width=128, height=64, num_outputs=3)), count=3, width=128, height=64)


@check("run asynchronous")
def asynchronous():
    async def both():
        there = client_for()
        return await asyncio.gather(there.async_run(REF, input=small()), there.async_run(MODEL, input=small(seed=8)))

    for outputs in asyncio.run(both()):
        are_pictures(outputs)


@check("wait in time", when=HAS_WAIT)
def in_time():
    made = create(small(), wait=10)
    assert (made.status, made.error) == ("succeeded", None), made
    assert made.metrics["predict_time"] >= 0 and len(made.output) == 1


@check("wait timed out", when=HAS_WAIT)
def timed_out():
    begun = time.monotonic()
    made = create(slow(), wait=1)
    assert (made.status, made.output) == ("starting", None), made
    assert 0.9 <= time.monotonic() - begun < 1.5 + 2
    made.wait()
    assert made.status == "succeeded", made
    are_pictures(client.run(REF, input=slow(seed=8), wait=1))


@check("wait off")
def wait_off():
    made = create(small())
    assert (made.status, made.output, made.logs, made.error) == ("starting", None, "", None), made
    made.wait()
    assert made.status == "succeeded" and made.started_at and made.completed_at, made
    assert "Using seed: 7" in made.logs
    if HAS_WAIT:
        are_pictures(client.run(REF, input=small(), wait=False))


def is_kept(file, name, kind, metadata):
    """Fails unless the server keeps this file as it was sent, under this description."""
    sums = {"sha256": hashlib.sha256(PICTURE).hexdigest(), "md5": hashlib.md5(PICTURE).hexdigest()}
    assert (file.name, file.content_type, file.size) == (name, kind, len(PICTURE)), file
    assert (file.checksums, file.metadata) == (sums, metadata), file
    assert file.etag and file.created_at < file.expires_at, file
    assert file.urls["get"] == f"{URL}/v1/files/{file.id}", file
    assert client.files.get(file.id) == file
    assert client._request("GET", file.urls["get"]).json()["id"] == file.id
    assert httpx.get(file.urls["download"]).content == PICTURE


@check("file upload", when=HAS_FILES)
def upload():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "red.png"
        path.write_bytes(PICTURE)
        file = client.files.create(path, metadata={"customer": "ours"})
        is_kept(file, "red.png", "image/png", {"customer": "ours"})
        with path.open("rb") as opened:
            made = create(small(image=opened))
    made.wait()
    assert made.status == "succeeded", made
    url = made.input["image"]
    assert url.startswith(f"{URL}/v1/files/"), url
    is_kept(client.files.get(url.rsplit("/", 1)[1]), "red.png", "image/png", {})
    assert file.id in [listed.id for listed in client.files.list()]


@check("file from a buffer", when=HAS_FILES)
def from_buffer():
    outputs = client.run(MODEL, input=small(image=io.BytesIO(PICTURE)))
    are_pictures(outputs)
    newest = client.predictions.list()[0]
    kept = client.files.get(newest.input["image"].rsplit("/", 1)[1])
    is_kept(kept, "file", "application/octet-stream", {})


@check("file as data URI")
def as_data_uri():
    image, how = io.BytesIO(PICTURE), {}
    if CLIENT >= (1, 0):
        how = {"file_encoding_strategy": "base64"}
    elif HAS_FILES:
        # 0.34 forgets the strategy on its way to the values of an input.
        image = replicate.helpers.base64_encode_file(image)
    made = create(small(image=image), **how)
    made.wait()
    assert made.status == "succeeded", made
    assert made.input["image"] == "data:application/octet-stream;base64," + base64.b64encode(PICTURE).decode()


@check("file deleted", when=HAS_FILES)
def deleted():
    file = client.files.create(io.BytesIO(PICTURE))
    assert client.files.delete(file.id) is True
    assert raises(ReplicateError, lambda: client.files.get(file.id)).status == 404


@check("failure")
def failure():
    error = raises(ModelError, lambda: client.run(REF, input=small(prompt="refuse")))
    assert str(error) == "no such picture", error
    if HAS_WAIT:
        assert (error.prediction.status, error.prediction.output) == ("failed", None), error.prediction
        error = raises(ModelError, lambda: client.run(MODEL, input=small(prompt="refuse"), wait=10))
        assert str(error) == "no such picture", error


@check("cancel")
def cancel():
    made = create(endless())
    until(lambda: client.predictions.get(made.id).status == "processing")
    made.cancel()
    made.wait()
    assert (made.status, made.output) == ("canceled", None), made
    ended = made.completed_at
    made.cancel()
    assert (made.status, made.completed_at) == ("canceled", ended), made


@check("progress bar")
def progress():
    made = create(slow())
    seen = []
    while made.status not in ("succeeded", "failed", "canceled"):
        time.sleep(0.1)
        made.reload()
        if made.progress:
            seen.append((made.progress.percentage, made.progress.current, made.progress.total))
    progress_is_told(seen)


@check("stream")
def stream():
    events = list(client.stream(REF, input=small(num_outputs=2)))
    assert [event.event.value for event in events] == ["output", "output", "done"], events
    assert len({event.id for event in events}) == 3 and events[2].data == "{}", events
    for event in events[:2]:
        data = event.data
        # On plain http this client makes a file object of a data URI only.
        is_png(data.read() if hasattr(data, "read") else behind(data))
    refused = lambda: list(client.stream(MODEL, input=small(prompt="refuse")))
    assert json.loads(str(raises(RuntimeError, refused))) == {"detail": "no such picture"}


@check("stream again after the end")
def stream_again():
    made = create(small())
    made.wait()
    for _ in range(2):
        assert [event.event.value for event in made.stream()] == ["output", "done"]


@check("stream of a cancelled one")
def stream_of_cancelled():
    made = create(endless())
    made.cancel()
    events = list(made.stream())
    assert [(event.event.value, event.data) for event in events] == [("done", '{"reason":"canceled"}')], events


@check("webhook" if HAS_VALIDATOR else "webhook without a validator")
def webhook():
    receiver = Receiver()
    made = create(slow(), webhook=receiver.url, webhook_events_filter=["start", "output", "logs", "completed"])
    got = receiver.until_completed()
    made.reload()
    assert {said["id"] for _, _, said in got} == {made.id}
    assert len({headers["webhook-id"] for headers, _, _ in got}) == len(got) >= 3, got
    ends = [said for _, _, said in got if "completed_at" in said]
    assert [said["status"] for said in ends] == ["succeeded"] and ends[0]["logs"] == made.logs, ends
    assert ends[0]["urls"] == made.urls and len(ends[0]["output"]) == 1, ends
    if not HAS_VALIDATOR:
        return
    secret = client.webhooks.default.secret()
    for headers, body, _ in got:
        client.webhooks.validate(headers=headers, body=body.decode(), secret=secret, tolerance=60)
    headers, body, _ = got[0]
    from replicate.webhook import InvalidSignatureError

    forged = lambda: client.webhooks.validate(headers=headers, body=body.decode() + " ", secret=secret)
    raises(InvalidSignatureError, forged)


@check("webhook about the end only")
def webhook_completed():
    receiver = Receiver()
    create(small(), webhook_completed=receiver.url)
    assert [said["status"] for _, _, said in receiver.until_completed()] == ["succeeded"]


@check("401")
def unauthenticated():
    guarded = CONFIG["guarded"]
    error = raises(ReplicateError, lambda: client_for(guarded["url"], "wrong").run(MODEL, input=small()))
    assert (error.status, error.title) == (401, "Unauthenticated") and "token" in error.detail, error
    with_key = client_for(guarded["url"], guarded["key"])
    are_pictures(with_key.run(REF, input=small()))


@check("404")
def not_found():
    for action in (
        lambda: client.predictions.get("nosuchprediction"),
        lambda: client.predictions.cancel("nosuchprediction"),
        lambda: client.models.get("nobody/nothing"),
        lambda: client.run("nobody/nothing", input=small()),
        lambda: client.models.get(MODEL).versions.get("0" * 64),
    ):
        error = raises(ReplicateError, action)
        assert error.status == 404 and error.detail, error


@check("422")
def unprocessable():
    error = raises(ReplicateError, lambda: client.run(REF, input=small(num_inference_steps=9999, scheduler="none")))
    assert (error.status, error.title) == (422, "Input validation failed"), error
    lines = error.detail.splitlines()
    assert "- input.num_inference_steps: Must be less than or equal to 500" in lines, error
    assert any(line.startswith("- input.scheduler: scheduler must be one of the following: ") for line in lines), error
    error = raises(ReplicateError, lambda: client.predictions.create(version="0" * 64, input=small()))
    assert (error.status, error.title) == (422, "Invalid version or not permitted"), error


@check("429")
def throttled():
    limited = client_for(CONFIG["limited"]["url"])

    def too_many():
        for _ in range(20):
            create(small(), limited)

    error = raises(ReplicateError, too_many)
    assert error.status == 429 and error.detail.startswith("Request was throttled. "), error


@check("models and versions")
def models():
    model = client.models.get(MODEL)
    assert (model.owner, model.name, model.visibility) == (OWNER, NAME, "public"), model
    assert model.latest_version.id == VERSION and model.run_count > 0, model
    version = model.versions.get(VERSION)
    assert version == model.latest_version and version.cog_version, version
    schemas = version.openapi_schema["components"]["schemas"]
    assert schemas["Input"]["properties"]["prompt"]["x-order"] == 0
    assert schemas["Output"]["items"] == {"type": "string", "format": "uri"}
    assert VERSION in [listed.id for listed in model.versions.list()]
    assert MODEL in [f"{listed.owner}/{listed.name}" for listed in client.models.list()]
    if hasattr(client.models, "search"):
        assert NAME in [found.name for found in client.models.search("stable-diffusion")]


@check("account, hardware, collections, deployments")
def others():
    assert client.accounts.current().type in ("user", "organization")
    assert all(hardware.sku and hardware.name for hardware in client.hardware.list())
    collection = client.collections.list()[0]
    assert len(client.collections.get(collection.slug).models or []) > 0
    deployment = client.deployments.get(MODEL)
    assert deployment.current_release.model == MODEL, deployment
    made = deployment.predictions.create(input=small())
    made.wait()
    assert made.status == "succeeded", made


@check("two list pages")
def two_pages():
    made = [create(small(num_inference_steps=1)).id for _ in range(101)]
    first = client.predictions.list()
    assert len(first) == 100 and first.previous is None, len(first)
    assert first.next.startswith(f"{URL}/v1/predictions?cursor="), first.next
    second = client.predictions.list(first.next)
    assert len(second) >= 1 and second.previous, second
    listed = [prediction.id for prediction in [*first, *second]]
    assert listed[:101] == made[::-1], "newest first, each once"
    pages = list(replicate.paginate(client.predictions.list))
    everything = [prediction.id for page in pages for prediction in page]
    assert len(pages) >= 2 and len(everything) == len(set(everything)) and set(listed) <= set(everything)


run()
