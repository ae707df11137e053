// Drives the playground and the prediction page in a real Chromium: node pages.mjs URL URL-WITH-KEY KEY FOLDER-FOR-SCREENSHOTS
//
// Every check throws; the last line says "ok". playwright-core is found through NODE_PATH's parent (see tests/suite/browser.rs).

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import { join } from "node:path";

const { chromium } = createRequire(join(process.env.PACKAGES, "package.json"))("playwright-core");
const [url, guarded, key, shots] = process.argv.slice(2);

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--no-first-run"],
});

/// A page on which nothing may go wrong unseen: errors, refused loads and calls to other hosts end the test.
async function open(path, options = {}, base = url) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, colorScheme: "light", ...options });
  const page = await context.newPage();
  page.faults = [];
  page.on("pageerror", (error) => page.faults.push(String(error)));
  page.on("console", (message) => {
    if (message.type() === "error" && !/status of (401|422)/.test(message.text())) page.faults.push(message.text());
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(base) && !/^(data|blob):/.test(request.url())) page.faults.push(request.url());
  });
  await page.goto(base + path);
  return page;
}

async function close(page) {
  assert.deepEqual(page.faults, []);
  await page.context().close();
}

const status = (page) => page.locator(".status");
const until = (page, state, timeout = 120_000) =>
  page.waitForFunction((s) => document.querySelector(".status")?.dataset.state === s, state, { timeout });

async function ask(page, values) {
  for (const [label, value] of Object.entries(values)) {
    const field = page.getByLabel(label, { exact: false }).first();
    if ((await field.evaluate((e) => e.tagName)) === "SELECT") await field.selectOption(String(value));
    else await field.fill(String(value));
  }
}

const noSideways = async (page) =>
  assert.ok(await page.evaluate(() => document.scrollingElement.scrollWidth <= innerWidth), "the page scrolls sideways");

async function draws() {
  const page = await open("/");
  const names = await page.locator("#fields [name]").evaluateAll((list) => list.map((e) => e.name));
  for (const name of ["prompt", "negative_prompt", "width", "height", "num_outputs", "scheduler", "seed"]) {
    assert.ok(names.includes(name), `no field ${name}`);
  }
  assert.equal(names[0], "prompt");
  await ask(page, { Prompt: "a red circle on a white background", Width: 512, Height: 512, "Num inference steps": 40,
    "Num outputs": 2, Seed: 7 });
  await page.getByLabel("Prompt").first().press("Control+Enter");
  await until(page, "processing");
  await page.locator("img.preview").waitFor({ state: "visible", timeout: 60_000 });
  await until(page, "succeeded");
  await page.waitForFunction(() => [...document.querySelectorAll(".pictures img")].filter((i) => i.naturalWidth === 512).length === 2);
  assert.equal(await page.locator("img.preview").isVisible(), false);
  assert.match(await page.locator("#stage").innerText(), /seed 7/);
  await noSideways(page);
  await page.screenshot({ path: join(shots, "playground.png"), fullPage: true });

  // What the page shows as code is what works.
  const curl = await page.locator("#code").innerText();
  const answer = JSON.parse(execFileSync("bash", ["-c", curl], { env: { ...process.env, REPLICATE_API_TOKEN: "any" } }));
  assert.ok(["succeeded", "starting"].includes(answer.status), JSON.stringify(answer));
  for (const name of ["Python", "JavaScript"]) {
    await page.getByRole("tab", { name }).click();
    assert.match(await page.locator("#code").innerText(), /replicate/);
  }

  // History leads back.
  const entries = page.locator("#history button");
  await page.waitForFunction(() => document.querySelectorAll("#history button").length >= 1);
  await ask(page, { Prompt: "something else" });
  await entries.last().click();
  assert.equal(await page.getByLabel("Prompt").first().inputValue(), "a red circle on a white background");
  const link = await page.locator("#link").getAttribute("href");
  await close(page);
  return link;
}

async function refusesAndCancels() {
  const page = await open("/");
  await page.locator("#fields [name]").first().waitFor();
  await ask(page, { "Num inference steps": 9999 });
  await page.getByRole("button", { name: "Run" }).click();
  const steps = page.locator("[name=num_inference_steps]");
  await page.waitForFunction(() => document.querySelector("[name=num_inference_steps]").getAttribute("aria-invalid") === "true");
  assert.match(await page.locator("#input-num_inference_steps-fault").innerText(), /less than or equal to/);
  assert.ok(await steps.evaluate((e) => e === document.activeElement), "the wrong field has the focus");

  const nasty = `<img src=x onerror="document.title='broken'"> & 'quotes' "double" \\ $(touch /tmp/x)`;
  await ask(page, { Prompt: nasty, "Num inference steps": 500 });
  await page.getByRole("button", { name: "Run" }).click();
  await until(page, "processing");
  await page.keyboard.press("Escape");
  await until(page, "canceled");
  await page.waitForFunction((text) => document.querySelector("#history .text")?.textContent === text, nasty);
  assert.equal(await page.title(), "Stablehand");
  await close(page);
}

async function onePrediction(link) {
  const page = await open(link);
  await until(page, "succeeded");
  assert.match(await page.locator("#logs").innerText(), /Using seed: 7/);
  assert.match(await page.locator("#input").innerText(), /a red circle on a white background/);
  await page.waitForFunction(() => document.querySelector(".pictures img")?.naturalWidth === 512);
  await page.screenshot({ path: join(shots, "prediction.png"), fullPage: true });
  await close(page);

  const missing = await open("/p/nosuchprediction");
  await missing.getByText("There is no such prediction.").waitFor();
  assert.ok(missing.faults.every((fault) => /404/.test(fault)), String(missing.faults));
  await missing.context().close();
}

async function phone(link) {
  const device = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true };
  for (const [path, name] of [["/", "playground-phone"], [link, "prediction-phone"]]) {
    const page = await open(path, { ...device, colorScheme: name.startsWith("playground") ? "dark" : "light" });
    await page.locator(path === "/" ? "#history img" : ".pictures img").first().waitFor();
    await noSideways(page);
    await page.screenshot({ path: join(shots, `${name}.png`), fullPage: true });
    await close(page);
  }
}

/// Everything can be reached and used without a mouse.
async function keyboard() {
  const page = await open("/");
  await page.locator("#fields [name]").first().waitFor();
  const reached = new Set();
  for (let i = 0; i < 60; i += 1) {
    await page.keyboard.press("Tab");
    reached.add(await page.evaluate(() => document.activeElement.name || document.activeElement.id));
  }
  for (const name of ["prompt", "negative_prompt", "width", "seed", "run"]) assert.ok(reached.has(name), `${name} is not reached`);
  const unnamed = await page.evaluate(() =>
    [...document.querySelectorAll("input,select,textarea,button")].filter(
      (e) => !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim()),
    ).length,
  );
  assert.equal(unnamed, 0, "controls without a name");
  await close(page);
}

async function asksForTheKey() {
  const page = await open("/", {}, guarded);
  const dialog = page.locator("dialog");
  await dialog.waitFor();
  await dialog.locator("input").fill(key);
  await dialog.getByRole("button").click();
  await page.locator("#fields [name=prompt]").waitFor();
  await page.getByRole("button", { name: "API key" }).waitFor();
  await close(page);
}

const link = await draws();
await refusesAndCancels();
await onePrediction(link);
await phone(link);
await keyboard();
await asksForTheKey();
await browser.close();
console.log("ok");
