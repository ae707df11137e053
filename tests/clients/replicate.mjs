// Drives a server with the JavaScript client, replicate 0.34 and 1: see README.md.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";

import {
  BASES, CONFIG, MODEL, NAME, OWNER, PICTURE, REF, URL_, VERSION, check, download, endless, getJson, isPng, named, newest,
  receiver, required, run, sleep, slow, small, thrown, until,
} from "./checks.mjs";

const Replicate = required("replicate");
const { parseProgressFromLogs, validateWebhook } = Replicate;
assert.equal(required("replicate/package.json").version, CONFIG.client);
const isOne = CONFIG.client.startsWith("1.");

const clientFor = ({ url = URL_, auth = "any", base = "", ...options } = {}) =>
  new Replicate({ auth, baseUrl: url + base, ...options });
const client = clientFor();

// How the two versions are told to wait on the server, and to poll.
const block = (seconds) => (isOne ? { mode: "block", timeout: seconds } : (seconds ?? true));
const poll = { mode: "poll", interval: 50 };

/// The bytes of one output, however this client hands it out.
async function content(output) {
  if (!isOne) {
    assert.equal(typeof output, "string");
    return download(output);
  }
  assert.equal(output?.constructor?.name, "FileOutput", `${output} cannot be read`);
  const blob = await output.blob();
  assert.equal(blob.type, "image/png");
  return Buffer.from(await blob.arrayBuffer());
}

async function arePictures(outputs, count = 1, width = 64, height = 64) {
  assert.ok(Array.isArray(outputs) && outputs.length === count, String(outputs));
  for (const output of outputs) isPng(await content(output), width, height);
}

const create = (input, more = {}, to = client) => to.predictions.create({ version: VERSION, input, ...more });

async function finished(made) {
  const done = await client.wait(made, { interval: 50 });
  assert.equal(done.status, "succeeded", JSON.stringify(done));
  return done;
}

for (const base of BASES) {
  check(`run versioned over ${named(base)}`, async () =>
    arePictures(await clientFor({ base }).run(REF, { input: small() })));

  check(`run unversioned over ${named(base)}`, async () =>
    arePictures(await clientFor({ base }).run(MODEL, { input: small() })));

  check(`URLs over ${named(base)}`, async () => {
    const there = clientFor({ base });
    const made = await create(small(), {}, there);
    assert.equal(made.urls.get, `${URL_}/v1/predictions/${made.id}`);
    assert.equal((await getJson(made.urls.get)).id, made.id);
    assert.equal((await there.predictions.get(made.id)).id, made.id);
  });
}

check("run as asked", async () => {
  const input = small({ width: 128, height: 64, num_outputs: 3 });
  await arePictures(await client.run(REF, { input }), 3, 128, 64);
});

check("wait in time", async () => {
  const made = await create(small(), { wait: 10 });
  assert.deepEqual([made.status, made.error, made.output.length], ["succeeded", null, 1]);
  await arePictures(await client.run(REF, { input: small(), wait: block(10) }));
});

check("wait timed out", async () => {
  const begun = Date.now();
  const made = await create(slow(), { wait: 1 });
  const took = Date.now() - begun;
  assert.deepEqual([made.status, made.output], ["starting", null]);
  assert.ok(took >= 900 && took < 3000, `${took} ms`);
  await finished(made);
  await arePictures(await client.run(REF, { input: slow({ seed: 8 }), wait: block(1) }));
});

check("wait off", async () => {
  const made = await create(small());
  assert.deepEqual([made.status, made.output, made.logs, made.error], ["starting", null, "", null]);
  const done = await finished(made);
  assert.ok(done.started_at && done.completed_at && done.logs.includes("Using seed: 7"), JSON.stringify(done));
  await arePictures(await client.run(REF, { input: small(), wait: poll }));
});

/// Fails unless the server keeps this file as it was sent, under this description.
async function isKept(file, name, type, metadata) {
  const sum = (kind) => createHash(kind).update(PICTURE).digest("hex");
  assert.match(file.name, name);
  assert.deepEqual([file.content_type, file.size, file.metadata], [type, PICTURE.length, metadata]);
  assert.deepEqual(file.checksums, { sha256: sum("sha256"), md5: sum("md5") });
  assert.equal(file.urls.get, `${URL_}/v1/files/${file.id}`);
  assert.deepEqual(await client.files.get(file.id), file);
  assert.equal((await getJson(file.urls.get)).id, file.id);
  const kept = await fetch(file.urls.download);
  assert.deepEqual(Buffer.from(await kept.arrayBuffer()), PICTURE);
}

const fileOf = (prediction) => {
  assert.ok(prediction.input.image.startsWith(`${URL_}/v1/files/`), prediction.input.image);
  return client.files.get(prediction.input.image.split("/").pop());
};

check("file upload", async () => {
  const file = await client.files.create(new Blob([PICTURE], { type: "image/png" }), { customer: "ours" });
  await isKept(file, /^blob_\d+$/, "image/png", { customer: "ours" });
  const named = new File([PICTURE], "red.png", { type: "image/png" });
  const made = await finished(await create(small({ image: named })));
  await isKept(await fileOf(made), /^red\.png$/, "image/png", {});
  assert.ok((await client.files.list()).results.some((listed) => listed.id === file.id));
});

check("file from a buffer", async () => {
  await arePictures(await client.run(MODEL, { input: small({ image: PICTURE }) }));
  await isKept(await fileOf(await newest()), /^buffer_\d+$/, "application/octet-stream", {});
});

// The strategy "data-uri" of both versions sends the client itself as the input, so people make the text themselves.
check("file as data URI", async () => {
  const image = `data:image/png;base64,${PICTURE.toString("base64")}`;
  const made = await finished(await create(small({ image })));
  assert.equal(made.input.image, image);
});

check("file deleted", async () => {
  const file = await client.files.create(PICTURE);
  assert.equal(await client.files.delete(file.id), true);
  assert.equal((await thrown(() => client.files.get(file.id))).response.status, 404);
});

check("failure", async () => {
  const input = small({ prompt: "refuse" });
  for (const how of [{}, { wait: block(10) }, { wait: poll }]) {
    const error = await thrown(() => client.run(REF, { input, ...how }));
    assert.equal(error.message, "Prediction failed: no such picture");
  }
});

check("cancel", async () => {
  const made = await create(endless());
  await until(async () => (await client.predictions.get(made.id)).status === "processing");
  await client.predictions.cancel(made.id);
  const done = await client.wait(made, { interval: 50 });
  assert.deepEqual([done.status, done.output], ["canceled", null]);
  const again = await client.predictions.cancel(made.id);
  assert.deepEqual([again.status, again.completed_at], ["canceled", done.completed_at]);
});

check("abort signal", async () => {
  const abort = new AbortController();
  let last;
  const output = await client.run(REF, { input: endless(), wait: poll, signal: abort.signal }, (prediction) => {
    last = prediction;
    if (prediction.status === "processing") abort.abort();
  });
  // The client has cancelled it, and hands on an output that never came.
  assert.equal(output, null);
  await until(async () => (await client.predictions.get(last.id)).status === "canceled");
});

check("progress bar", async () => {
  const seen = [];
  await client.run(REF, { input: slow(), wait: { ...poll, interval: 100 } }, (prediction) => {
    const progress = parseProgressFromLogs(prediction);
    if (progress) seen.push(progress);
  });
  assert.deepEqual(seen.at(-1), { percentage: 1, current: 200, total: 200 });
  for (const [index, { percentage, current, total }] of seen.entries()) {
    assert.ok(total === 200 && Math.abs(percentage - current / total) < 0.011, JSON.stringify(seen));
    assert.ok(index === 0 || seen[index - 1].current <= current, JSON.stringify(seen));
  }
  assert.ok(new Set(seen.map(({ current }) => current)).size >= 3, JSON.stringify(seen));
});

async function collected(events) {
  const all = [];
  for await (const event of events) all.push(event);
  return all;
}

check("stream", async () => {
  const events = await collected(client.stream(REF, { input: small({ num_outputs: 2 }) }));
  assert.deepEqual(events.map(({ event }) => event), ["output", "output", "done"]);
  assert.equal(new Set(events.map(({ id }) => id)).size, 3);
  assert.equal(events[2].data, "{}");
  for (const { data } of events.slice(0, 2)) isPng(isOne ? await content(data) : await download(data));
  const error = await thrown(() => collected(client.stream(MODEL, { input: small({ prompt: "refuse" }) })));
  assert.deepEqual(JSON.parse(error.message), { detail: "no such picture" });
});

check("stream stopped by a signal", async () => {
  const abort = new AbortController();
  const events = collected(client.stream(REF, { input: endless(), signal: abort.signal }));
  await until(async () => (await newest()).input.num_inference_steps === 500);
  const { id } = await newest();
  await sleep(100);
  abort.abort();
  assert.equal((await thrown(() => events)).name, "AbortError");
  assert.equal((await client.predictions.cancel(id)).id, id);
});

check("webhook", async () => {
  const hooks = await receiver();
  const made = await create(slow(), {
    webhook: hooks.url, webhook_events_filter: ["start", "output", "logs", "completed"],
  });
  const got = await hooks.untilCompleted();
  const { key } = await client.webhooks.default.secret.get();
  for (const { headers, body, said } of got) {
    assert.equal(said.id, made.id);
    const parts = {
      id: headers["webhook-id"], timestamp: headers["webhook-timestamp"], signature: headers["webhook-signature"],
    };
    assert.equal(await validateWebhook({ ...parts, body, secret: key }), true);
    assert.equal(await validateWebhook({ ...parts, body: `${body} `, secret: key }), false);
    assert.ok(Math.abs(Date.now() / 1000 - Number(parts.timestamp)) < 60);
  }
  assert.equal(new Set(got.map(({ headers }) => headers["webhook-id"])).size, got.length);
  const ends = got.filter(({ said }) => "completed_at" in said);
  assert.deepEqual(ends.map(({ said }) => said.status), ["succeeded"]);
  assert.ok(got.length >= 3, JSON.stringify(got));
});

check("webhook of a run", async () => {
  const hooks = await receiver();
  const how = { webhook: hooks.url, webhook_events_filter: ["completed"] };
  await arePictures(await client.run(MODEL, { input: small(), ...how }));
  assert.deepEqual((await hooks.untilCompleted()).map(({ said }) => said.status), ["succeeded"]);
});

check("401", async () => {
  const { url, key } = CONFIG.guarded;
  const error = await thrown(() => clientFor({ url, auth: "wrong" }).run(MODEL, { input: small() }));
  assert.equal(error.response.status, 401);
  assert.match(error.message, /"title":\s*"Unauthenticated"/);
  await arePictures(await clientFor({ url, auth: key }).run(REF, { input: small() }));
});

check("404", async () => {
  for (const action of [
    () => client.predictions.get("nosuchprediction"),
    () => client.predictions.cancel("nosuchprediction"),
    () => client.models.get("nobody", "nothing"),
    () => client.run("nobody/nothing", { input: small() }),
    () => client.models.versions.get(OWNER, NAME, "0".repeat(64)),
    () => client.files.get("nosuchfile"),
  ]) {
    const error = await thrown(action);
    assert.equal(error.response.status, 404, error.message);
    assert.match(error.message, /"detail":/);
  }
});

check("422", async () => {
  const wrong = small({ num_inference_steps: 9999, scheduler: "none" });
  const error = await thrown(() => client.run(REF, { input: wrong }));
  assert.equal(error.response.status, 422);
  assert.match(error.message, /- input\.num_inference_steps: Must be less than or equal to 500\\n/);
  assert.match(error.message, /- input\.scheduler: scheduler must be one of the following: /);
  const unknown = await thrown(() => client.predictions.create({ version: "0".repeat(64), input: small() }));
  assert.equal(unknown.response.status, 422);
  assert.match(unknown.message, /Invalid version or not permitted/);
});

check("429", async () => {
  const limited = clientFor({ url: CONFIG.limited.url });
  const error = await thrown(async () => {
    for (let i = 0; i < 20; i += 1) await create(small(), {}, limited);
  });
  assert.equal(error.response.status, 429);
  assert.match(error.message, /Request was throttled\. /);
});

check("models and versions", async () => {
  const model = await client.models.get(OWNER, NAME);
  assert.deepEqual([model.owner, model.name, model.visibility], [OWNER, NAME, "public"]);
  const version = await client.models.versions.get(OWNER, NAME, VERSION);
  assert.deepEqual(version, model.latest_version);
  assert.deepEqual(version.openapi_schema.components.schemas.Output.items, { type: "string", format: "uri" });
  assert.ok((await client.models.versions.list(OWNER, NAME)).results.some(({ id }) => id === VERSION));
  const known = await client.models.list();
  assert.ok(known.results.some(({ owner, name }) => `${owner}/${name}` === MODEL));
  assert.ok((await client.models.search("stable-diffusion")).results.some(({ name }) => name === NAME));
});

check("account, hardware, collections, deployments", async () => {
  assert.ok(["user", "organization"].includes((await client.accounts.current()).type));
  assert.ok((await client.hardware.list()).every(({ name, sku }) => name && sku));
  const [{ slug }] = (await client.collections.list()).results;
  assert.ok((await client.collections.get(slug)).models.length > 0);
  const deployment = await client.deployments.get(OWNER, NAME);
  assert.equal(deployment.current_release.model, MODEL);
  const done = await finished(await client.deployments.predictions.create(OWNER, NAME, { input: small() }));
  assert.equal(done.deployment, MODEL);
});

check("two list pages", async () => {
  const made = [];
  for (let i = 0; i < 101; i += 1) made.push((await create(small({ num_inference_steps: 1 }))).id);
  const pages = [];
  for await (const page of client.paginate(client.predictions.list)) pages.push(page.map(({ id }) => id));
  assert.ok(pages.length >= 2 && pages[0].length === 100, String(pages.map((page) => page.length)));
  const listed = pages.flat();
  assert.deepEqual(listed.slice(0, 101), made.reverse(), "newest first, each once");
  assert.equal(new Set(listed).size, listed.length);
});

await run();
