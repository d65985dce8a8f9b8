/**
 * Writes modelfile.json: what Go's text/template makes of each template that a Modelfile is given, for the conversations
 * in modelfile-cases.ts. Run: bun test/golden/gguf/modelfile.ts (needs Go; written with 1.19)
 */
import { join } from "node:path";
import { modelfile } from "../../../src/gguf/modelfile.ts";
import { TALKS, templateIn, tokenizers } from "./modelfile-cases.ts";

const templates = [...new Set([...tokenizers().values()].map((tokenizer) => templateIn(modelfile("m", null, tokenizer, []))))];
const child = Bun.spawnSync(["go", "run", join(import.meta.dir, "modelfile.go")], {
  stdin: Buffer.from(JSON.stringify(templates.map((template) => ({ template, talks: TALKS })))),
  stderr: "inherit",
});
if (!child.success) process.exit(1);
const texts: readonly (readonly string[])[] = JSON.parse(child.stdout.toString());
const rendered = Object.fromEntries(templates.map((template, i) => [template, texts[i]]));
await Bun.write(join(import.meta.dir, "modelfile.json"), `${JSON.stringify(rendered, null, 2)}\n`);
