import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { copyFileSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { evaluate } from "../../../src/library/evaluate.ts";
import { exportGguf } from "../../../src/library/export-gguf.ts";
import { generate } from "../../../src/library/generate.ts";
import { merge } from "../../../src/library/merge.ts";
import { train } from "../../../src/library/train.ts";
import { rejection, temporaryCache, temporaryFolder } from "../../hf/temp.ts";
import { SLOW } from "../../support/slow.ts";
import { writeGgufDecoder } from "../../support/gguf-decoders.ts";

setDefaultTimeout(120_000);

const home = temporaryFolder();
temporaryCache();

const data = join(home, "chats.jsonl");
const chats = ["the mill", "a river", "two boats"].map((what) => ({
  messages: [
    { role: "user", content: `What is ${what}?` },
    { role: "assistant", content: `It is ${what}, as you see.` },
  ],
}));
writeFileSync(data, chats.map((chat) => `${JSON.stringify(chat)}\n`).join(""));

const LLAMA = { architectures: ["LlamaForCausalLM"], model_type: "llama", rms_norm_eps: 1e-5 };

/** A model, and a file of it. */
async function written(name: string, more: object = {}, type: "f32" | "q8_0" = "f32") {
  const model = writeGgufDecoder(join(home, `${name}-${type}`), name, { ...more });
  const { out: file } = await exportGguf({ model, out: join(home, `${name}-${type}.gguf`), type });
  return { model, file };
}

const settings = { data, threads: 1, sequenceLength: 64 } as const;

describe("a GGUF file as a base model", () => {
  const others = ["gemma4-keys", "qwen3.5", "qwen3-next", "lfm2-moe", "gpt-neox-serial", "glm", "olmoe"];
  test.each<[string, object]>([
    ["llama", LLAMA],
    ["gpt2", {}],
    ["qwen3-moe", {}],
    ["gemma4", {}],
    ...others.filter(() => SLOW).map((name): [string, object] => [name, {}]),
  ])("%s: has the folder's losses, to the bit", async (name, more) => {
    const { model, file } = await written(name, more);
    const [expected, got] = [await evaluate({ model, ...settings }), await evaluate({ model: file, ...settings })];
    expect(got).toEqual(expected);
  });

  test("is trained, resumed, merged and generated with; a changed file is another model", async () => {
    const { model, file } = await written("tuned", { ...LLAMA, intermediate_size: 64 }, "q8_0");
    const output = join(home, "run");
    const config = { ...settings, model: file, output, rank: 2, steps: 2, batchSize: 1, saveEvery: 1, seed: 3 };
    await train(config);
    const adapter = JSON.parse(readFileSync(join(output, "adapter_config.json"), "utf8")) as Record<string, unknown>;
    expect(adapter["base_model_name_or_path"]).toBe(file);
    await train({ ...config, steps: 3, resume: true });
    // The base model is the one that the adapter names.
    const { out } = await merge({ adapter: output, out: join(home, "merged") });
    const tuned = await evaluate({ adapter: output, ...settings });
    expect((await evaluate({ model: out, ...settings })).loss).toBeCloseTo(tuned.loss, 5);
    const prompts = ["What is the mill?"];
    const sampling = { threads: 1, temperature: 0, maxNewTokens: 4 } as const;
    const answers = async (named: { readonly model: string }) => (await generate({ ...named, ...sampling, prompts })).answers;
    expect((await answers({ model: output })).map(({ text }) => text)).toEqual(
      (await answers({ model: out })).map(({ text }) => text),
    );
    await exportGguf({ model, out: file, type: "f16", overwrite: true });
    expect(await rejection(train({ ...config, steps: 4, resume: true }))).toContain("the base model's");
  });

  test("is known by its begin, and by no other file's", async () => {
    const { file } = await written("plain", LLAMA);
    const blob = join(home, "sha256-blob");
    copyFileSync(file, blob);
    const linked = join(home, "linked.gguf");
    symlinkSync(file, linked);
    const { loss } = await evaluate({ model: file, ...settings });
    for (const path of [blob, linked]) expect((await evaluate({ model: path, ...settings })).loss).toBe(loss);
    expect(await rejection(evaluate({ model: data, ...settings }))).toContain(
      "is a file; expected a model folder, a GGUF file or",
    );
    // A folder of files like this one is none of Transformers'.
    expect(await rejection(evaluate({ model: home, ...settings }))).toContain("name the file itself: ");
    expect(await rejection(evaluate({ model: join(home, "none.gguf"), ...settings }))).toContain("no such file");
    const cut = join(home, "cut.gguf");
    writeFileSync(cut, readFileSync(file).subarray(0, 5000));
    expect(await rejection(evaluate({ model: cut, ...settings }))).toContain(cut);
  });
});
