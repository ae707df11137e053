"""Drives a server with the generated Python client, replicate 2, which refuses any body that is not as its schema says:
see README.md."""

import asyncio
import base64
import hashlib
import hmac
import importlib.metadata
import io
import os
import tempfile
import time
from pathlib import Path

os.environ["REPLICATE_POLL_INTERVAL"] = "0.05"

import httpx
import replicate
from checks import (
    BASES, CONFIG, MODEL, NAME, OWNER, PICTURE, REF, URL, VERSION, Receiver, check, endless, is_png, named, of_data_uri,
    raises, run, slow, small, until,
)
from replicate import AsyncReplicate, Replicate
from replicate._exceptions import ModelError
from replicate.lib._predictions_use import use

assert importlib.metadata.version("replicate") == CONFIG["client"]


def client_for(url=URL, token="any", base="", kind=Replicate, **options):
    return kind(bearer_token=token, base_url=url + base, _strict_response_validation=True, **options)


client = client_for()


class Strict(Replicate):
    """What `use` makes its own clients of."""

    def __init__(self):
        super().__init__(bearer_token="any", base_url=URL, _strict_response_validation=True)


def are_pictures(outputs, count=1, **size):
    assert isinstance(outputs, list) and len(outputs) == count, outputs
    for output in outputs:
        assert type(output).__name__ == "FileOutput", f"{output!r} cannot be read"
        is_png(output.read(), **size)


def create(input, to=client, **params):
    return to.predictions.create(version=VERSION, input=input, **params)


def finished(made):
    made = client.predictions.wait(made.id)
    assert made.status == "succeeded", made
    return made


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
        assert made.urls.get == f"{URL}/v1/predictions/{made.id}", made.urls
        assert there.predictions.get(prediction_id=made.id).id == made.id
        assert httpx.get(made.urls.get).json()["id"] == made.id


for base in BASES:
    over(base)


@check("base from the environment")
def from_environment():
    os.environ["REPLICATE_BASE_URL"] = f"{URL}/v1"
    os.environ["REPLICATE_API_TOKEN"] = "any"
    assert Replicate().models.get(model_owner=OWNER, model_name=NAME).name == NAME


# The client behind the module's own functions has a user agent of its own.
@check("run of the module")
def of_the_module():
    are_pictures(replicate.run(REF, input=small()))


@check("run as asked")
def as_asked():
    are_pictures(client.run(REF, input=small(width=128, height=64, num_outputs=3)), count=3, width=128, height=64)


@check("run asynchronous")
def asynchronous():
    async def both():
        there = client_for(kind=AsyncReplicate)
        several = await asyncio.gather(there.run(REF, input=small()), there.run(MODEL, input=small(seed=8)))
        return [await output.read() for outputs in several for output in outputs]

    contents = asyncio.run(both())
    assert len(contents) == 2
    for content in contents:
        is_png(content)


def content_of_used(output):
    """`use` leaves data URIs as they are, makes files of URLs when they are opened, and streams bare URLs."""
    if not isinstance(output, str):
        return Path(output).read_bytes()
    return of_data_uri(output) if output.startswith("data:") else httpx.get(output).raise_for_status().content


@check("use")
def used():
    for ref in (REF, MODEL):
        outputs = use(Strict, ref)(**small(num_outputs=2))
        assert len(outputs) == 2, outputs
        for output in outputs:
            is_png(content_of_used(output))


@check("stream")
def streamed():
    outputs = list(use(Strict, REF, streaming=True)(**small(num_outputs=2)))
    assert len(outputs) == 2, outputs
    for output in outputs:
        is_png(content_of_used(output))
    raises(ModelError, lambda: list(use(Strict, REF, streaming=True)(**small(prompt="refuse"))))


@check("wait in time")
def in_time():
    made = create(small(), prefer="wait=10")
    assert (made.status, made.error) == ("succeeded", None) and len(made.output) == 1, made
    assert made.metrics.total_time > 0, made


@check("wait timed out")
def timed_out():
    begun = time.monotonic()
    made = create(slow(), prefer="wait=1")
    assert (made.status, made.output) == ("starting", None), made
    assert 0.9 <= time.monotonic() - begun < 1 + 2
    finished(made)
    are_pictures(client.run(REF, input=slow(seed=8), wait=1))


@check("wait off")
def wait_off():
    made = create(small())
    assert (made.status, made.output, made.logs, made.error) == ("starting", None, "", None), made
    made = finished(made)
    assert made.created_at <= made.started_at <= made.completed_at and "Using seed: 7" in made.logs, made
    are_pictures(client.run(REF, input=small(), wait=False))


@check("deadline")
def deadline():
    made = create(small(), cancel_after="5m")
    assert (made.deadline - made.created_at).total_seconds() == 300, made
    assert finished(made).deadline == made.deadline


def is_kept(file, name, kind, metadata):
    """Fails unless the server keeps this file as it was sent, under this description."""
    assert (file.name, file.content_type, file.size) == (name, kind, len(PICTURE)), file
    assert file.checksums.sha256 == hashlib.sha256(PICTURE).hexdigest() and file.metadata == metadata, file
    assert (file.expires_at - file.created_at).total_seconds() == 24 * 3600, file
    assert file.urls.get == f"{URL}/v1/files/{file.id}", file
    assert client.files.get(file_id=file.id).model_dump() == file.model_dump()
    query = dict(httpx.URL(file.urls.download).params)
    got = client.files.download(
        file_id=file.id, owner=query["owner"], expiry=int(query["expiry"]), signature=query["signature"]
    )
    assert got.read() == PICTURE


@check("file upload")
def upload():
    file = client.files.create(content=("red.png", PICTURE, "image/png"), metadata={"customer": "ours"})
    is_kept(file, "red.png", "image/png", {"customer": "ours"})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "red.png"
        path.write_bytes(PICTURE)
        made = finished(create(small(image=path)))
    url = made.input["image"]
    assert url.startswith(f"{URL}/v1/files/"), url
    is_kept(client.files.get(file_id=url.rsplit("/", 1)[1]), "upload", "application/octet-stream", {})
    assert file.id in [listed.id for listed in client.files.list()]


@check("file from a buffer")
def from_buffer():
    are_pictures(client.run(MODEL, input=small(image=io.BytesIO(PICTURE))))
    newest = next(iter(client.predictions.list()))
    kept = client.files.get(file_id=newest.input["image"].rsplit("/", 1)[1])
    is_kept(kept, "upload", "application/octet-stream", {})


@check("file as data URI")
def as_data_uri():
    made = finished(create(small(image=io.BytesIO(PICTURE)), file_encoding_strategy="base64"))
    assert made.input["image"] == "data:application/octet-stream;base64," + base64.b64encode(PICTURE).decode()


@check("file deleted")
def deleted():
    file = client.files.create(content=PICTURE)
    client.files.delete(file_id=file.id)
    raises(replicate.NotFoundError, lambda: client.files.get(file_id=file.id))


@check("failure")
def failure():
    for ref, how in ((REF, {}), (MODEL, {"wait": 10}), (REF, {"wait": False})):
        error = raises(ModelError, lambda: client.run(ref, input=small(prompt="refuse"), **how))
        assert (error.prediction.status, error.prediction.error) == ("failed", "no such picture"), error.prediction


@check("cancel")
def cancel():
    made = create(endless())
    until(lambda: client.predictions.get(prediction_id=made.id).status == "processing")
    client.predictions.cancel(prediction_id=made.id)
    made = client.predictions.wait(made.id)
    assert (made.status, made.output) == ("canceled", None), made
    again = client.predictions.cancel(prediction_id=made.id)
    assert (again.status, again.completed_at) == ("canceled", made.completed_at), again


@check("webhook without a validator")
def webhook():
    receiver = Receiver()
    events = ["start", "output", "logs", "completed"]
    made = create(slow(), webhook=receiver.url, webhook_events_filter=events)
    got = receiver.until_completed()
    key = base64.b64decode(client.webhooks.default.secret.get().key.removeprefix("whsec_"), validate=True)
    assert len(key) == 24
    for headers, body, said in got:
        assert said["id"] == made.id
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        digest = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
        assert f"v1,{digest}" in headers["webhook-signature"].split(), headers
        replicate.types.Prediction.model_validate_json(body)
    ends = [said for _, _, said in got if "completed_at" in said]
    assert [said["status"] for said in ends] == ["succeeded"] and len(got) >= 3, got


@check("401")
def unauthenticated():
    guarded = CONFIG["guarded"]
    stranger = client_for(guarded["url"], "wrong")
    error = raises(replicate.AuthenticationError, lambda: stranger.run(MODEL, input=small()))
    assert error.body["title"] == "Unauthenticated" and error.body["status"] == 401, error.body
    are_pictures(client_for(guarded["url"], guarded["key"]).run(REF, input=small()))


@check("404")
def not_found():
    for action in (
        lambda: client.predictions.get(prediction_id="nosuchprediction"),
        lambda: client.predictions.cancel(prediction_id="nosuchprediction"),
        lambda: client.models.get(model_owner="nobody", model_name="nothing"),
        lambda: client.run("nobody/nothing", input=small()),
        lambda: client.models.versions.get(model_owner=OWNER, model_name=NAME, version_id="0" * 64),
        lambda: client.files.get(file_id="nosuchfile"),
    ):
        assert raises(replicate.NotFoundError, action).body["detail"]


@check("422")
def unprocessable():
    wrong = small(num_inference_steps=9999, scheduler="none")
    body = raises(replicate.UnprocessableEntityError, lambda: client.run(REF, input=wrong)).body
    assert (body["title"], body["status"]) == ("Input validation failed", 422), body
    fields = {field["field"]: field for field in body["invalid_fields"]}
    assert fields["input.num_inference_steps"] == {
        "type": "number_lte",
        "field": "input.num_inference_steps",
        "description": "Must be less than or equal to 500",
    }, body
    assert fields["input.scheduler"]["type"] == "enum" and len(fields) == 2, body
    unknown = lambda: client.predictions.create(version="0" * 64, input=small())
    body = raises(replicate.UnprocessableEntityError, unknown).body
    assert body["title"] == "Invalid version or not permitted", body


@check("429")
def throttled():
    limited = client_for(CONFIG["limited"]["url"], max_retries=0)

    def too_many():
        for _ in range(20):
            create(small(), limited)

    error = raises(replicate.RateLimitError, too_many)
    assert error.body["detail"].startswith("Request was throttled. "), error.body
    assert int(error.response.headers["retry-after"]) == error.body["retry_after"] > 0, error.response.headers


@check("models and versions")
def models():
    model = client.models.get(model_owner=OWNER, model_name=NAME)
    assert (model.owner, model.name, model.visibility) == (OWNER, NAME, "public") and model.run_count > 0, model
    version = client.models.versions.get(model_owner=OWNER, model_name=NAME, version_id=VERSION)
    assert version == model.latest_version and version.cog_version, version
    assert version.openapi_schema["components"]["schemas"]["Output"]["items"] == {"type": "string", "format": "uri"}
    assert VERSION in [listed.id for listed in client.models.versions.list(model_owner=OWNER, model_name=NAME)]
    newest = client.models.list(sort_by="model_created_at", sort_direction="desc")
    assert MODEL in [f"{listed.owner}/{listed.name}" for listed in newest]
    assert NAME in [found.name for found in client.models.search(body="stable-diffusion")]
    assert NAME in [found.model.name for found in client.search(query="stable-diffusion").models]


@check("account, hardware, collections, deployments")
def others():
    assert client.account.get().type in ("user", "organization")
    assert all(hardware.sku and hardware.name for hardware in client.hardware.list())
    collection = next(iter(client.collections.list()))
    assert client.collections.get(collection_slug=collection.slug).models
    deployment = client.deployments.get(deployment_owner=OWNER, deployment_name=NAME)
    assert deployment.current_release.model == MODEL, deployment
    made = client.deployments.predictions.create(deployment_owner=OWNER, deployment_name=NAME, input=small())
    assert finished(made).deployment == MODEL


@check("two list pages")
def two_pages():
    made = [create(small(num_inference_steps=1)).id for _ in range(101)]
    page = client.predictions.list()
    assert len(page.results) == 100 and page.next.startswith(f"{URL}/v1/predictions?cursor="), page.next
    listed = [prediction.id for prediction in page]
    assert listed[:101] == made[::-1], "newest first, each once"
    assert len(listed) == len(set(listed)) > 101
    since = client.predictions.get(prediction_id=made[90]).created_at
    assert [prediction.id for prediction in client.predictions.list(created_after=since)][:10] == made[:90:-1]


run()
