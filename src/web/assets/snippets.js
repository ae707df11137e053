// The form's request as code for the three ways that most people call the API.

const json = (value) => JSON.stringify(value, null, 2);

function curl(origin, version, input) {
  const body = json({ version, input }).replaceAll("'", "'\\''");
  return `curl -s -X POST ${origin}/v1/predictions \\
  -H 'Authorization: Bearer '"$REPLICATE_API_TOKEN" \\
  -H 'Content-Type: application/json' \\
  -H 'Prefer: wait' \\
  -d '${body}'`;
}

// JSON's literals that Python spells in another way appear only as values here, never inside its strings.
function python(origin, version, input) {
  const value = (v) => (v === true ? "True" : v === false ? "False" : JSON.stringify(v));
  const lines = Object.entries(input).map(([name, v]) => `        ${JSON.stringify(name)}: ${value(v)},`);
  return `# pip install replicate
import replicate

client = replicate.Client(api_token="any", base_url=${JSON.stringify(origin)})
output = client.run(
    ${JSON.stringify(version)},
    input={
${lines.join("\n")}
    },
)
for i, picture in enumerate(output):
    with open(f"out-{i}.png", "wb") as file:
        file.write(picture.read())`;
}

function javascript(origin, version, input) {
  return `// npm install replicate
import { writeFile } from "node:fs/promises";
import Replicate from "replicate";

const replicate = new Replicate({ auth: "any", baseUrl: ${JSON.stringify(`${origin}/v1`)} });
const output = await replicate.run(${JSON.stringify(version)}, { input: ${json(input)} });
for (const [i, picture] of output.entries()) {
  await writeFile(\`out-\${i}.png\`, picture);
}`;
}

export const SNIPPETS = { curl, Python: python, JavaScript: javascript };
