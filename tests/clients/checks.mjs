// What the JavaScript drivers share: named checks, pictures, a receiver of webhooks. Knows no client.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

// {"client": version, "url": …, "guarded": {"url", "key"}, "limited": {"url"}, "model", "version"}: see README.md.
export const CONFIG = JSON.parse(process.argv[2]);
export const { url: URL_, model: MODEL, version: VERSION } = CONFIG;
export const REF = `${MODEL}:${VERSION}`;
export const [OWNER, NAME] = MODEL.split("/");

// What people give as a base, beside the bare host.
export const BASES = ["", "/v1", "/replicate/v1"];
export const named = (base) => base || "root";

// The whole driver ends after this many milliseconds, whatever hangs.
const DEADLINE = 150_000;

// The client's package lies in the folder that PACKAGES names. What can only be imported is looked for from where the
// importing module lies, so one is put there.
export const PACKAGES = process.env.PACKAGES;
export const required = createRequire(join(PACKAGES, "package.json"));
export async function imported(name) {
  const path = join(PACKAGES, "load.mjs");
  writeFileSync(path, "export const load = (name) => import(name);\n");
  return (await import(pathToFileURL(path))).load(name);
}

const checks = [];

/// Registers a check; `when` says whether this version of the client can do what is checked.
export function check(name, test, when = true) {
  if (when) checks.push([name, test]);
}

/// Makes every check and prints one line for each; exit status 1 if one of them failed.
export async function run() {
  setTimeout(() => {
    console.error(`not done after ${DEADLINE / 1000} s`);
    process.exit(1);
  }, DEADLINE);
  let failed = 0;
  for (const [name, test] of checks) {
    try {
      await test();
      console.log(`ok ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${name}`);
      console.error(`--- ${name}\n`, error);
    }
  }
  process.exit(failed ? 1 : 0);
}

/// An input that is drawn at once, one that takes longer than a second, and one that is still drawn when it is cancelled.
export const small = (more = {}) => ({
  prompt: "a square", width: 64, height: 64, num_inference_steps: 2, seed: 7, ...more,
});
export const slow = (more = {}) => small({ num_inference_steps: 200, ...more });
export const endless = (more = {}) => small({ num_inference_steps: 500, ...more });

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/// Looks until what is seen is truthy, and returns it.
export async function until(look, seconds = 20) {
  const end = Date.now() + 1000 * seconds;
  for (;;) {
    const seen = await look();
    if (seen) return seen;
    assert.ok(Date.now() < end, "waited in vain");
    await sleep(20);
  }
}

/// The error that the action ends with.
export async function thrown(action) {
  let result;
  try {
    result = await action();
  } catch (error) {
    return error;
  }
  throw new Error(`nothing was thrown, but ${JSON.stringify(result)} returned`);
}

/// Fails unless these bytes are a whole PNG of this size.
export function isPng(bytes, width = 64, height = 64) {
  const data = Buffer.from(bytes);
  assert.equal(data.subarray(0, 8).toString("latin1"), "\x89PNG\r\n\x1a\n", data.subarray(0, 40).toString("latin1"));
  assert.equal(data.subarray(-8, -4).toString("latin1"), "IEND");
  assert.deepEqual([data.readUInt32BE(16), data.readUInt32BE(20)], [width, height]);
}

/// The bytes behind a URL or within a data URI.
export async function download(url) {
  const answer = await fetch(url);
  assert.equal(answer.status, 200, url);
  assert.equal(answer.headers.get("content-type"), "image/png");
  return Buffer.from(await answer.arrayBuffer());
}

export async function getJson(url) {
  const answer = await fetch(url);
  assert.equal(answer.status, 200, url);
  return answer.json();
}

/// The newest prediction of the server.
export const newest = async () => (await getJson(`${URL_}/v1/predictions`)).results[0];

// A picture to upload: 1×1, opaque red.
export const PICTURE = Buffer.from(
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC",
  "base64",
);

/// A receiver of webhooks on loopback, which keeps what it got.
export async function receiver() {
  const got = [];
  const server = createServer(async (request, answer) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    got.push({ headers: request.headers, body: Buffer.concat(chunks).toString("utf8") });
    answer.writeHead(204).end();
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  server.unref();
  return {
    url: `http://127.0.0.1:${server.address().port}/hook`,
    /// All that came until the end was told.
    async untilCompleted() {
      await until(() => got.some(({ body }) => "completed_at" in JSON.parse(body)));
      return got.map((one) => ({ ...one, said: JSON.parse(one.body) }));
    },
  };
}
