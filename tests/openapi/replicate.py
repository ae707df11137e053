"""Drives a whole server and holds every answer against Replicate's OpenAPI document.

    python tests/openapi/replicate.py http://127.0.0.1:8000 replicate-openapi-2026-03.json [/files /webhooks]

The paths after the document are left out. Exit status 1 if a body is not as documented or a documented operation was never answered.
"""

import datetime
import json
import sys
import time
import urllib.parse

import jsonschema
import requests

MODEL = "stability-ai/stable-diffusion"
VERSION = "ac732df83cea7fff18b8472768c88ad041fa750ff7682a21affe81863cbe77e4"
SMALL = {"prompt": "a red circle", "width": 64, "height": 64, "num_inference_steps": 2, "seed": 1}

# What the contract lets a server for image models answer with 404 (section 4, need C).
NOT_SERVED = [
    ("post", "/models"),
    ("patch", "/models/{model_owner}/{model_name}"),
    ("delete", "/models/{model_owner}/{model_name}"),
    ("delete", "/models/{model_owner}/{model_name}/versions/{version_id}"),
    ("post", "/models/{model_owner}/{model_name}/versions/{version_id}/trainings"),
    ("get", "/trainings"),
    ("get", "/trainings/{training_id}"),
    ("post", "/trainings/{training_id}/cancel"),
    ("post", "/deployments"),
    ("patch", "/deployments/{deployment_owner}/{deployment_name}"),
    ("delete", "/deployments/{deployment_owner}/{deployment_name}"),
    ("get", "/files/{file_id}/download"),
]


def is_uri(value):
    parts = urllib.parse.urlsplit(value) if isinstance(value, str) else None
    return parts is None or parts.scheme == "data" or bool(parts.scheme in ("http", "https") and parts.netloc)


def is_time(value):
    if not isinstance(value, str):
        return True
    try:
        # Python keeps six digits of a second, RFC 3339 allows more.
        head, dot, tail = value.rstrip("Z").partition(".")
        return value.endswith("Z") and tail.isdigit() == bool(dot) and bool(datetime.datetime.fromisoformat(head))
    except ValueError:
        return False


def plain(schema):
    """The document says 3.1 and writes `nullable`, which only 3.0 knows: said in 3.1's words."""
    if isinstance(schema, list):
        return [plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: plain(value) for key, value in schema.items()}
    if schema.pop("nullable", False) is True and isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
    return schema


class Check:
    def __init__(self, base, document):
        self.base = base.rstrip("/") + "/v1"
        self.document = plain(document)
        self.formats = jsonschema.FormatChecker(formats=[])
        self.formats.checks("uri")(is_uri)
        self.formats.checks("date-time")(is_time)
        self.session = requests.Session()
        self.session.trust_env = False
        self.answered = {}
        self.wrong = []

    def call(self, method, template, status, path=None, **options):
        """One request; its answer must have this status and the body that the document has for it."""
        url = self.base + (path or template)
        answer = self.session.request(method.upper(), url, timeout=90, **options)
        where = f"{method.upper()} {path or template} {answer.status_code}"
        self.answered[(method, template)] = self.answered.get((method, template), 0) + 1
        if answer.status_code != status:
            self.wrong.append(f"{where}: expected {status}: {answer.text[:300]}")
            return answer
        if status >= 400:
            self.problem(where, answer)
        documented = self.document["paths"][template][method]["responses"].get(str(status))
        if documented is None:
            if status < 400:
                self.wrong.append(f"{where}: the document has no such status")
            return answer
        for kind, media in documented.get("content", {}).items():
            body = answer.json() if kind in ("application/json", "application/problem+json") else answer.text
            schema = {**media.get("schema", {}), "components": self.document["components"]}
            validator = jsonschema.Draft202012Validator(schema, format_checker=self.formats)
            for error in validator.iter_errors(body):
                self.wrong.append(f"{where}: {error.json_path}: {error.message[:300]}")
        return answer

    def problem(self, where, answer):
        kind = answer.headers.get("content-type", "")
        body = answer.json() if kind == "application/problem+json" else {}
        if not isinstance(body.get("detail"), str) or body.get("status", answer.status_code) != answer.status_code:
            self.wrong.append(f"{where}: no problem of {kind}: {answer.text[:300]}")


def predictions(check):
    create, get = "/predictions", "/predictions/{prediction_id}"
    body = {"version": f"{MODEL}:{VERSION}", "input": SMALL}
    started = check.call("post", create, 201, json=body).json()
    check.call("post", create, 201, json={**body, "version": VERSION}, headers={"Prefer": "wait"})
    long = {**SMALL, "num_inference_steps": 500, "num_outputs": 4}
    running = check.call("post", create, 202, json={**body, "input": long}, headers={"Prefer": "wait=1"}).json()
    check.call("get", get, 200, f"/predictions/{running['id']}")
    cancel = "/predictions/{prediction_id}/cancel"
    check.call("post", cancel, 200, f"/predictions/{running['id']}/cancel")
    check.call("post", cancel, 404, "/predictions/nobody/cancel")
    large = {**SMALL, "width": 1024, "height": 1024}
    failed = check.call("post", create, 201, json={**body, "input": large}, headers={"Prefer": "wait"}).json()
    ends = {started["id"]: "succeeded", running["id"]: "canceled", failed["id"]: "failed"}
    for id, status in ends.items():
        for _ in range(200):
            seen = check.call("get", get, 200, f"/predictions/{id}").json()
            if seen["status"] == status:
                break
            time.sleep(0.05)
        else:
            check.wrong.append(f"prediction {id} is {seen['status']} and not {status}")
    check.call("get", get, 404, "/predictions/nobody")
    check.call("post", create, 422, json={**body, "input": {"width": 1, "num_outputs": 9}})
    check.call("post", create, 422, json={"version": "0" * 64, "input": {}})
    check.call("post", create, 400, data="{")
    check.call("post", "/models/{model_owner}/{model_name}/predictions", 201, f"/models/{MODEL}/predictions", json={"input": SMALL})
    check.call("post", "/models/{model_owner}/{model_name}/predictions", 404, "/models/a/b/predictions", json={"input": SMALL})
    deployment = "/deployments/{deployment_owner}/{deployment_name}/predictions"
    made = check.call("post", deployment, 201, f"/deployments/{MODEL}/predictions", json={"input": SMALL}).json()
    if made.get("deployment") != MODEL:
        check.wrong.append("a prediction does not name its deployment")
    for _ in range(100):
        check.call("post", create, 201, json={**body, "input": SMALL})
    page = check.call("get", create, 200).json()
    check.call("get", create, 200, "/predictions?" + urllib.parse.urlsplit(page["next"]).query)


def models(check):
    check.call("get", "/models", 200)
    check.call("get", "/models", 200, "/models?sort_by=model_created_at&sort_direction=asc")
    check.call("query", "/models", 200, data="stable", headers={"Content-Type": "text/plain"})
    model, parts = f"/models/{MODEL}", "/models/{model_owner}/{model_name}"
    check.call("get", parts, 200, model)
    check.call("get", parts, 404, "/models/nobody/nothing")
    versions = check.call("get", parts + "/versions", 200, model + "/versions").json()["results"]
    for version in versions:
        check.call("get", parts + "/versions/{version_id}", 200, f"{model}/versions/{version['id']}")
    check.call("get", parts + "/versions/{version_id}", 404, f"{model}/versions/{'0' * 64}")
    check.call("get", parts + "/examples", 200, model + "/examples")
    check.call("get", parts + "/readme", 200, model + "/readme")
    check.call("get", "/search", 200, "/search?query=stable+diffusion&limit=1")
    check.call("get", "/search", 400)
    check.call("get", "/collections", 200)
    check.call("get", "/collections/{collection_slug}", 200, "/collections/text-to-image")
    check.call("get", "/collections/{collection_slug}", 404, "/collections/none")
    check.call("get", "/deployments", 200)
    check.call("get", "/deployments/{deployment_owner}/{deployment_name}", 200, f"/deployments/{MODEL}")
    check.call("get", "/account", 200)
    check.call("get", "/hardware", 200)


def files(check):
    metadata = {"metadata": ("blob", b'{"order": 7}', "application/json")}
    content = {"content": ("a name.png", b"\x89PNG not really", "image/png")}
    made = check.call("post", "/files", 201, files={**content, **metadata})
    if made.status_code != 201:
        return
    file = f"/files/{urllib.parse.quote(made.json()['id'], safe='')}"
    check.call("get", "/files", 200)
    check.call("get", "/files/{file_id}", 200, file)
    check.call("delete", "/files/{file_id}", 204, file)
    check.call("get", "/files/{file_id}", 404, file)
    check.call("delete", "/files/{file_id}", 404, file)


def main():
    base, path, *without = sys.argv[1:]
    with open(path) as file:
        check = Check(base, json.load(file))
    predictions(check)
    models(check)
    if "/files" not in without:
        files(check)
    if "/webhooks" not in without:
        check.call("get", "/webhooks/default/secret", 200)
    for method, template in NOT_SERVED:
        url = template.replace("{model_owner}/{model_name}", MODEL).replace("{version_id}", VERSION)
        url = url.replace("{deployment_owner}/{deployment_name}", MODEL)
        if "{file_id}" not in url:
            check.call(method, template, 404, url, json={} if method in ("post", "patch") else None)
        check.answered[(method, template)] = 1
    for template, item in check.document["paths"].items():
        for method in item.keys() - {"parameters"}:
            left_out = any(template.startswith(start) for start in without)
            if not left_out and (method, template) not in check.answered:
                check.wrong.append(f"{method.upper()} {template} was never called")
    print(f"{sum(check.answered.values())} answers to {len(check.answered)} operations")
    print("\n".join(check.wrong))
    sys.exit(1 if check.wrong else 0)


if __name__ == "__main__":
    main()
