"""Drives a server with OpenAI's Python client, images and models: see README.md."""

import asyncio
import base64
import importlib.metadata
import os

import openai
from checks import BASES, CONFIG, MODEL, URL, check, is_png, named, raises, run
from openai import AsyncOpenAI, OpenAI

assert importlib.metadata.version("openai") == CONFIG["client"]

# What our server understands beside OpenAI's own parameters.
QUICK = {"num_inference_steps": 2}


def client_for(url=URL, key="any", base="/v1", kind=OpenAI):
    return kind(api_key=key, base_url=url + base, max_retries=0)


client = client_for()


def generate(to=client, **more):
    asked = {"prompt": "a square", "model": MODEL, "size": "64x64", "extra_body": QUICK, **more}
    return to.images.generate(**asked)


def content(image):
    assert image.url is None, image
    return base64.b64decode(image.b64_json, validate=True)


def behind(image):
    assert image.b64_json is None and image.url.startswith(f"{URL}/outputs/"), image
    answer = client._client.get(image.url)
    assert answer.headers["content-type"] == "image/png", answer.headers
    return answer.read()


def over(base):
    @check(f"images over {named(base)}")
    def images():
        there = client_for(base=base)
        is_png(content(generate(there).data[0]))
        assert there.models.list().data


for base in BASES:
    over(base)


@check("base from the environment")
def from_environment():
    os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"] = f"{URL}/v1", "any"
    is_png(content(generate(OpenAI()).data[0]))


@check("as base64")
def as_base64():
    answer = generate(n=3, size="128x64", response_format="b64_json")
    assert len(answer.data) == 3 and answer.created > 1_700_000_000, answer
    for image in answer.data:
        is_png(content(image), 128, 64)


@check("as URLs")
def as_urls():
    answer = generate(n=2, response_format="url")
    assert len(answer.data) == 2
    for image in answer.data:
        is_png(behind(image))


@check("as JPEG and WebP")
def formats():
    assert content(generate(output_format="jpeg", output_compression=80).data[0])[:3] == b"\xff\xd8\xff"
    webp = content(generate(output_format="webp").data[0])
    assert (webp[:4], webp[8:12]) == (b"RIFF", b"WEBP"), webp[:16]


@check("parameters without a meaning here")
def others():
    answer = generate(quality="high", style="vivid", background="opaque", moderation="low", user="somebody")
    is_png(content(answer.data[0]))


@check("asynchronous")
def asynchronous():
    async def several():
        there = client_for(kind=AsyncOpenAI)
        return await asyncio.gather(*(generate(there) for _ in range(3)))

    for answer in asyncio.run(several()):
        is_png(content(answer.data[0]))


@check("models")
def models():
    known = client.models.list()
    assert known.object == "list" and MODEL in [model.id for model in known], known
    assert all(model.object == "model" and model.created >= 0 and model.owned_by for model in known.data), known


@check("failure")
def failure():
    error = raises(openai.InternalServerError, lambda: generate(prompt="refuse"))
    assert "no such picture" in error.message and error.type == "server_error", error.body


@check("400")
def bad_request():
    for wrong, param in (({"size": "banana"}, "size"), ({"n": 99}, "n"), ({"prompt": 7}, "prompt")):
        error = raises(openai.BadRequestError, lambda: generate(**wrong))
        assert (error.type, error.param) == ("invalid_request_error", param), error.body


@check("401")
def unauthenticated():
    guarded = CONFIG["guarded"]
    error = raises(openai.AuthenticationError, lambda: generate(client_for(guarded["url"], "wrong")))
    assert error.code == "invalid_api_key", error.body
    is_png(content(generate(client_for(guarded["url"], guarded["key"])).data[0]))


@check("404")
def not_found():
    error = raises(openai.NotFoundError, lambda: generate(model="nobody/nothing"))
    assert (error.code, error.param) == ("model_not_found", "model"), error.body


@check("429")
def throttled():
    limited = client_for(CONFIG["limited"]["url"])

    def too_many():
        for _ in range(20):
            generate(limited)

    assert raises(openai.RateLimitError, too_many).code == "rate_limit_exceeded"


run()
