// Drives a server through replicate-mcp, as an assistant would: tool calls over stdio. See README.md.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";

import {
  BASES, CONFIG, MODEL, NAME, OWNER, PACKAGES, URL_, VERSION, check, download, endless, isPng, named, required, run, slow,
  small, thrown, until,
} from "./checks.mjs";

const { Client } = required("@modelcontextprotocol/sdk/client/index.js");
const { StdioClientTransport } = required("@modelcontextprotocol/sdk/client/stdio.js");
const server = join(PACKAGES, "node_modules/replicate-mcp");
assert.equal(required(join(server, "package.json")).version, CONFIG.client);

/// A tool server that talks to this base; `call` gives what a tool says, and fails as the tool does.
async function open(base, token = "any") {
  const client = new Client({ name: "stablehand-test", version: "1" });
  const env = { PATH: process.env.PATH, REPLICATE_API_TOKEN: token, REPLICATE_BASE_URL: base };
  const args = [join(server, "index.js"), "--tools=all"];
  await client.connect(new StdioClientTransport({ command: process.execPath, args, env, stderr: "ignore" }));
  const call = async (name, given = {}) => {
    const result = await client.callTool({ name, arguments: given });
    assert.ok(!result.isError, JSON.stringify(result));
    const { text } = result.content[0];
    return text === undefined ? result.content[0] : JSON.parse(text);
  };
  return { client, call, close: () => client.close() };
}

const { client, call } = await open(`${URL_}/v1`);
const create = (input, more = {}) => call("create_predictions", { version: VERSION, input, ...more });
const get = (id) => call("get_predictions", { prediction_id: id });
const finished = (id) => until(async () => {
  const seen = await get(id);
  return "completed_at" in seen && seen;
});

async function isDrawn(prediction) {
  assert.deepEqual([prediction.status, prediction.error], ["succeeded", null]);
  assert.equal(prediction.output.length, 1);
  isPng(await download(prediction.output[0]));
}

check("tools", async () => {
  const { tools } = await client.listTools();
  assert.equal(tools.length, 35);
});

for (const base of BASES) {
  check(`run over ${named(base)}`, async () => {
    const there = await open(URL_ + base);
    const versioned = await there.call("create_predictions", { version: VERSION, input: small(), Prefer: "wait" });
    await isDrawn(versioned);
    const model = { model_owner: OWNER, model_name: NAME };
    await isDrawn(await there.call("create_models_predictions", { ...model, input: small(), Prefer: "wait=10" }));
    assert.equal((await there.call("get_predictions", { prediction_id: versioned.id })).id, versioned.id);
    await there.close();
  });
}

check("wait timed out", async () => {
  const made = await create(slow(), { Prefer: "wait=1" });
  assert.deepEqual([made.status, made.output], ["starting", null]);
  await isDrawn(await finished(made.id));
});

check("wait off", async () => {
  const made = await create(small());
  assert.deepEqual([made.status, made.output, made.logs], ["starting", null, ""]);
  await isDrawn(await finished(made.id));
});

check("failure", async () => {
  const made = await create(small({ prompt: "refuse" }), { Prefer: "wait" });
  assert.deepEqual([made.status, made.error, made.output], ["failed", "no such picture", null]);
});

check("cancel", async () => {
  const made = await create(endless());
  await until(async () => (await get(made.id)).status === "processing");
  await call("cancel_predictions", { prediction_id: made.id });
  const done = await finished(made.id);
  assert.deepEqual([done.status, done.output], ["canceled", null]);
});

check("file upload", async () => {
  const content = "a file that an assistant wrote";
  const file = await call("create_files", { content, filename: "note.txt", type: "text/plain", metadata: { by: "us" } });
  assert.equal(file.checksums.sha256, createHash("sha256").update(content).digest("hex"));
  assert.deepEqual(await call("get_files", { file_id: file.id }), file);
  const made = await create(small({ image: file.urls.get }), { Prefer: "wait" });
  await isDrawn(made);
  assert.equal(made.input.image, file.urls.get);
  await call("delete_files", { file_id: file.id });
  assert.match((await thrown(() => call("get_files", { file_id: file.id }))).message, /404/);
});

check("list", async () => {
  const listed = await call("list_predictions");
  const { id } = await create(small());
  const again = await call("list_predictions");
  const ids = (page) => page.results.map((prediction) => prediction.id);
  assert.ok(ids(again)[0] === id && ids(listed).every((one) => one !== id));
});

// Several tools make their call and say of the answer only that there was one.
const SUCCESS = "Successful tool call";

check("models and versions", async () => {
  const which = { model_owner: OWNER, model_name: NAME };
  assert.equal(await call("get_models", which), SUCCESS);
  assert.equal(await call("get_models_versions", { ...which, version_id: VERSION }), SUCCESS);
  assert.equal(await call("list_models_versions", which), SUCCESS);
  assert.equal(await call("search_models", { body: "stable-diffusion" }), SUCCESS);
  assert.ok((await call("list_models")).results.some(({ owner, name }) => `${owner}/${name}` === MODEL));
});

check("account, hardware, collections, deployments", async () => {
  assert.ok(["user", "organization"].includes((await call("get_account")).type));
  assert.ok((await call("list_hardware")).every(({ name, sku }) => name && sku));
  assert.equal(await call("list_collections"), SUCCESS);
  assert.equal(await call("get_collections", { collection_slug: "text-to-image" }), SUCCESS);
  const which = { deployment_owner: OWNER, deployment_name: NAME };
  assert.equal((await call("get_deployments", which)).current_release.model, MODEL);
  await isDrawn(await call("create_deployments_predictions", { ...which, input: small(), Prefer: "wait" }));
  assert.match((await call("get_default_webhooks_secret")).key, /^whsec_[A-Za-z0-9+/]{32}$/);
});

check("401", async () => {
  const { url, key } = CONFIG.guarded;
  const stranger = await open(`${url}/v1`, "wrong");
  assert.match((await thrown(() => stranger.call("get_account"))).message, /401.*Unauthenticated/s);
  await stranger.close();
  const known = await open(`${url}/v1`, key);
  assert.equal((await known.call("get_account")).type, "user");
  await known.close();
});

check("404", async () => {
  assert.match((await thrown(() => get("nosuchprediction"))).message, /404.*could not be found/s);
  const nobody = { model_owner: "nobody", model_name: "nothing" };
  assert.match((await thrown(() => call("get_models", nobody))).message, /404/);
});

check("422", async () => {
  const error = await thrown(() => create(small({ num_inference_steps: 9999 })));
  assert.match(error.message, /422.*Must be less than or equal to 500/s);
});

await run();
