// Drives a server with the Vercel AI SDK, @ai-sdk/replicate 2 and 3 and the `ai` that goes with it: see README.md.

import assert from "node:assert/strict";

import {
  BASES, CONFIG, MODEL, PICTURE, REF, URL_, check, getJson, imported, isPng, named, newest, run, thrown, until,
} from "./checks.mjs";

const { generateImage } = await imported("ai");
const { VERSION: client, createReplicate } = await imported("@ai-sdk/replicate");
assert.equal(client, CONFIG.client);
// 2 neither polls nor looks at the status: what is not there in the first answer is an error.
const polls = client.startsWith("3.");

const providerFor = ({ url = URL_, apiToken = "any", base = "" } = {}) =>
  createReplicate({ apiToken, baseURL: url + base });

/// Draws with few steps, and without the SDK's own retries.
async function generate(ref, { options = {}, provider = providerFor(), ...more } = {}) {
  return generateImage({
    model: provider.image(ref), prompt: "a square", size: "64x64", seed: 7, maxRetries: 0, ...more,
    providerOptions: { replicate: { num_inference_steps: 2, ...options } },
  });
}

function arePictures({ images }, count = 1, width = 64, height = 64) {
  assert.equal(images.length, count);
  for (const image of images) {
    assert.equal(image.mediaType, "image/png");
    isPng(image.uint8Array, width, height);
  }
}

for (const base of BASES) {
  check(`run versioned over ${named(base)}`, async () =>
    arePictures(await generate(REF, { provider: providerFor({ base }) })));

  check(`run unversioned over ${named(base)}`, async () =>
    arePictures(await generate(MODEL, { provider: providerFor({ base }) })));
}

check("run as asked", async () => {
  arePictures(await generate(REF, { size: "128x64", n: 3 }), 3, 128, 64);
  const { input } = await newest();
  assert.deepEqual([input.size, input.num_outputs, input.seed], ["128x64", 1, 7]);
});

check("run with an aspect ratio", async () => {
  const { image } = await generate(MODEL, { size: undefined, aspectRatio: "16:9" });
  const data = Buffer.from(image.uint8Array);
  const [width, height] = [data.readUInt32BE(16), data.readUInt32BE(20)];
  isPng(data, width, height);
  assert.ok(Math.abs(width / height - 16 / 9) < 0.2, `${width}x${height}`);
});

check("wait longer than Replicate would", async () =>
  arePictures(await generate(REF, { options: { maxWaitTimeInSeconds: 90 } })));

const late = { num_inference_steps: 200, maxWaitTimeInSeconds: 1 };

check("wait timed out", async () =>
  arePictures(await generate(REF, { options: { ...late, pollIntervalMillis: 100 } })), polls);

check("wait timed out is an error", async () => {
  const error = await thrown(() => generate(REF, { options: late }));
  assert.equal(error.statusCode, 202, String(error));
  await until(async () => (await newest()).status === "succeeded");
}, !polls);

check("file as data URI", async () => {
  arePictures(await generate(MODEL, { prompt: { text: "a square", images: [new Uint8Array(PICTURE)] } }));
  assert.equal((await newest()).input.image, `data:image/png;base64,${PICTURE.toString("base64")}`);
});

check("failure", async () => {
  const error = await thrown(() => generate(REF, { prompt: "refuse" }));
  if (polls) assert.match(error.message, /failed: no such picture/);
  else assert.equal(error.statusCode, 201, String(error));
  const { status, error: why } = await newest();
  assert.deepEqual([status, why], ["failed", "no such picture"]);
});

check("abort signal", async () => {
  const abort = new AbortController();
  const started = () => newest().then(({ input, status }) => input.num_inference_steps === 500 && status === "processing");
  const asked = thrown(() => generate(REF, { options: { num_inference_steps: 500 }, abortSignal: abort.signal }));
  await until(started);
  abort.abort();
  assert.equal((await asked).name, "AbortError");
  // The SDK does not cancel what it started.
  const { urls } = await newest();
  await fetch(urls.cancel, { method: "POST" });
  await until(async () => (await getJson(urls.get)).status === "canceled");
});

check("401", async () => {
  const { url, key } = CONFIG.guarded;
  const error = await thrown(() => generate(MODEL, { provider: providerFor({ url, apiToken: "wrong" }) }));
  assert.equal(error.statusCode, 401);
  assert.match(error.message, /token/);
  arePictures(await generate(REF, { provider: providerFor({ url, apiToken: key }) }));
});

check("404", async () => {
  const error = await thrown(() => generate("nobody/nothing"));
  assert.deepEqual([error.statusCode, error.message], [404, "The requested resource could not be found."]);
});

check("422", async () => {
  const error = await thrown(() => generate(REF, { options: { num_inference_steps: 9999 } }));
  assert.equal(error.statusCode, 422);
  assert.match(error.message, /^- input\.num_inference_steps: Must be less than or equal to 500$/m);
  const unknown = await thrown(() => generate(`${MODEL}:${"0".repeat(64)}`));
  assert.equal(unknown.statusCode, 422);
  assert.match(unknown.message, /does not exist/);
});

check("429", async () => {
  const provider = providerFor({ url: CONFIG.limited.url });
  const error = await thrown(async () => {
    for (let i = 0; i < 20; i += 1) await generate(REF, { provider });
  });
  assert.equal(error.statusCode, 429);
  assert.match(error.message, /^Request was throttled\. /);
});

await run();
