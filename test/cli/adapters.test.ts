import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openSafetensors, readBytes } from "../../src/hf/weights/safetensors.ts";
import { type TensorData, writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { ok, refused, remat, writeTinyModel } from "../support/cli.ts";
import { readGguf } from "../support/gguf.ts";
import { SLOW } from "../support/slow.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const path = (...parts: string[]) => join(folder, ...parts);
const model = writeTinyModel(path("model"));
const data = path("data.jsonl");
writeFileSync(
  data,
  ["king", "house", "water", "tree"]
    .map((word) => `${JSON.stringify({ prompt: `Define ${word}.`, completion: `n. A ${word}.` })}\n`)
    .join(""),
);
const training = ["--data", data, "--learning-rate", "2e-2", "--sequence-length", "64", "--threads", "1"];

/** Tensors of a file that is closed again. */
function tensors(file: string): TensorData[] {
  const source = openSafetensors(file);
  const read = [...source.tensors.values()].map((entry) => ({
    name: entry.name,
    dtype: entry.dtype!,
    shape: entry.shape,
    data: readBytes(source, entry),
  }));
  source.close();
  return read;
}

const config = (run: string) => JSON.parse(readFileSync(path(run, "adapter_config.json"), "utf8")) as Record<string, unknown>;
const lossOf = async (...flags: string[]) =>
  (JSON.parse(await ok("eval", "--data", data, "--json", "--threads", "1", ...flags)) as { loss: number }).loss;
const chat = (name: string) =>
  ok(
    "chat",
    "--model",
    name,
    "--prompt",
    "Define king.",
    "--raw",
    "--temperature",
    "0",
    "--max-new-tokens",
    "8",
    "--threads",
    "1",
  );

const words = (line: string): string[] => line.split(" ");

const CASES: readonly (readonly [
  name: string,
  flags: readonly string[],
  written: Readonly<Record<string, unknown>>,
  parts: RegExp[],
])[] = [
  [
    "dora",
    [
      "--method",
      "dora",
      "--rank-pattern",
      "q_proj=3,layers.1.mlp.down_proj=2",
      "--alpha-pattern",
      "v_proj=5",
      "--last-layers",
      "2",
    ],
    {
      use_dora: true,
      rank_pattern: { q_proj: 3, "layers.1.mlp.down_proj": 2 },
      alpha_pattern: { v_proj: 5 },
      layers_to_transform: [1, 2],
    },
    [/q_proj\.lora_magnitude_vector$/, /down_proj\.lora_B\.weight$/],
  ],
  [
    "ia3",
    words(
      "--method ia3 --targets k_proj,v_proj,o_proj,down_proj --feedforward o_proj,down_proj --last-layers 2 --learning-rate 0.3",
    ),
    {
      peft_type: "IA3",
      feedforward_modules: [1, 2].flatMap((layer) => [
        `model.layers.${layer}.mlp.down_proj`,
        `model.layers.${layer}.self_attn.o_proj`,
      ]),
    },
    [/k_proj\.ia3_l$/, /down_proj\.ia3_l$/],
  ],
  [
    "tables",
    ["--targets", "q_proj,lm_head,embed_tokens"],
    { use_dora: false, target_modules: ["lm_head", "model.embed_tokens", "q_proj"] },
    [/embed_tokens\.lora_embedding_A$/, /lm_head\.lora_A\.weight$/],
  ],
  [
    "whole",
    ["--targets", "v_proj", "--modules-to-save", "lm_head,model.norm,2.mlp.up_proj"],
    { modules_to_save: ["lm_head", "model.norm", "2.mlp.up_proj"] },
    [/model\.lm_head\.weight$/, /model\.model\.norm\.weight$/, /layers\.2\.mlp\.up_proj\.weight$/],
  ],
];

/** The files of "tables" are those of later tests, too. */
const cases = SLOW ? CASES : CASES.filter(([name]) => name === "dora" || name === "tables");

describe.each(cases)("%s", (name, flags, written, parts) => {
  const train = (...more: string[]) => ["train", "--model", model, "--output", path(name), ...training, ...flags, ...more];

  test("trained, resumed, trained further, evaluated, merged, chatted with, exported", async () => {
    await ok(...train("--steps", "20", "--save-every", "10", "--no-sample"));
    const file = path(name, "adapter_model.safetensors");
    const trained = tensors(file);
    expect(config(name)).toMatchObject(written);
    for (const part of parts) expect(trained.some((tensor) => part.test(tensor.name))).toBe(true);

    rmSync(path(name, "checkpoints", "step-00000020"), { recursive: true });
    rmSync(file);
    await ok(...train("--steps", "20", "--save-every", "10", "--no-sample", "--resume"));
    expect(tensors(file)).toEqual(trained);

    const adapted = await lossOf("--model", path(name));
    expect(adapted).toBeLessThan((await lossOf("--model", model)) - 0.1);
    await ok("merge", "--adapter", path(name), "--out", path(`${name}-merged`));
    expect(Math.abs((await lossOf("--model", path(`${name}-merged`))) / adapted - 1)).toBeLessThan(1e-4);
    expect(await chat(path(name))).toBe(await chat(path(`${name}-merged`)));

    const further = path(`${name}-further`);
    await ok(
      "train",
      "--model",
      path(name),
      "--output",
      further,
      ...training,
      "--steps",
      "1",
      "--learning-rate",
      "1e-9",
      "--no-sample",
    );
    expect(config(`${name}-further`)).toEqual({ ...config(name) });
    expect(tensors(join(further, "adapter_model.safetensors")).map((tensor) => [tensor.name, tensor.shape])).toEqual(
      trained.map((tensor) => [tensor.name, tensor.shape]),
    );
    expect(Math.abs((await lossOf("--model", further)) / adapted - 1)).toBeLessThan(1e-5);

    await ok("export", "gguf", "--adapter", path(name), "--out", path(`${name}.gguf`), "--type", "f32", "--overwrite");
    const alone = [
      "export",
      "gguf",
      "--adapter",
      path(name),
      "--adapter-only",
      "--out",
      path(`${name}-alone.gguf`),
      "--overwrite",
    ];
    const refusals: Record<string, string> = {
      dora: "the kind dora",
      ia3: "the kind ia3",
      tables: "shared with the",
      whole: "lm_head.weight, which is trained whole",
    };
    const message = await refused(...alone);
    expect(message).toContain(`llama.cpp's adapters have no place for`);
    expect(message).toContain(refusals[name]!);
    expect(message).toContain("remat merge");
  });

  test("a file without one of its tensors is refused by every verb, by the tensor's name", async () => {
    const broken = path(`${name}-broken`);
    cpSync(path(name), broken, { recursive: true });
    rmSync(join(broken, "SHA256SUMS"), { force: true });
    rmSync(join(broken, "model.sig"), { force: true });
    const whole = tensors(join(broken, "adapter_model.safetensors"));
    const lost = whole.filter((tensor) => parts[0]!.test(tensor.name))[0]!.name;
    const module = lost.replace(/\.(lora_\w+|ia3_l|weight)(\.weight)?$/, ".");
    writeSafetensors(
      join(broken, "adapter_model.safetensors"),
      whole.filter((tensor) => !tensor.name.startsWith(module)),
    );
    for (const verb of [
      ["merge", "--adapter", broken, "--out", path("never")],
      ["eval", "--adapter", broken, "--data", data],
      ["chat", "--adapter", broken, "--prompt", "x"],
      ["export", "gguf", "--adapter", broken, "--out", path("never.gguf"), "--overwrite"],
      ["train", "--model", broken, "--output", path("never-run"), ...training],
    ]) {
      const message = await refused(...verb);
      expect([verb[0], message]).toEqual([verb[0]!, expect.stringContaining(`lacks ${module}`)]);
    }
  });
});

test("an adapter of an embedding and a head of its own goes into a GGUF adapter: rows of A are words", async () => {
  const own = path("tables-merged");
  const run = path("own");
  await ok(
    "train",
    "--model",
    own,
    "--output",
    run,
    ...training,
    "--targets",
    "lm_head,embed_tokens",
    "--rank",
    "3",
    "--steps",
    "4",
    "--no-sample",
  );
  const file = path("own.gguf");
  await ok("export", "gguf", "--adapter", run, "--adapter-only", "--out", file, "--type", "f32", "--overwrite");
  const { tensors: parts } = readGguf(file);
  expect([...parts.keys()].sort()).toEqual(
    ["output", "token_embd"].flatMap((module) => ["a", "b"].map((side) => `${module}.weight.lora_${side}`)),
  );
  const stored = new Map(tensors(join(run, "adapter_model.safetensors")).map((tensor) => [tensor.name, tensor]));
  const a = stored.get("base_model.model.model.embed_tokens.lora_embedding_A")!;
  const [rank, words] = a.shape as [number, number];
  const values = new Float32Array((a.data as Uint8Array).slice().buffer);
  const written = parts.get("token_embd.weight.lora_a")!;
  expect(written.shape).toEqual([words, rank]);
  written.values().forEach((value, at) => expect(value).toBe(values[(at % rank) * words + Math.floor(at / rank)]!));
});

describe("what cannot be asked for", () => {
  const asked = (...flags: string[]) => refused("train", "--model", model, "--output", path("no"), ...training, ...flags);

  test.each([
    [
      ["--method", "dora", "--targets", "lm_head"],
      "--targets lm_head: --method dora has none of it; train it whole with --modules-to-save lm_head",
    ],
    [["--rank-pattern", "qproj=3"], '--rank-pattern: "qproj" is the name of no module with an adapter; there are down_proj'],
    [["--rank-pattern", "q_proj"], "--rank-pattern: expected name=number"],
    [["--rank-pattern", "q_proj=0"], "--rank-pattern: Too small: expected number to be >=1"],
    [["--alpha-pattern", "(a+)+=3"], "is not understood"],
    [["--modules-to-save", "nothing"], '--modules-to-save: "nothing" is the name of no module of the model; there are'],
    [["--bias", "all"], "--bias all: the model has no biases"],
    [["--method", "full", "--modules-to-save", "lm_head"], "--modules-to-save is for adapters; got --method full"],
    [
      ["--method", "ia3", "--rank", "8"],
      "--rank is no setting of --method ia3, which has --feedforward; --rank belongs to --method lora, dora",
    ],
    ...["--alpha=2", "--dropout=0.1", "--rank-pattern=q_proj=2", "--alpha-pattern=q_proj=2", "--bias=none", "--rslora"].map(
      (flag) => [["--method", "ia3", flag], `${flag.split("=")[0]} is no setting of --method ia3`] as [string[], string],
    ),
    [["--feedforward", "down_proj"], "--feedforward is no setting of --method lora, which has --rank, --alpha"],
    [
      ["--method", "ia3", "--feedforward", "q_proj"],
      '--feedforward: "q_proj" is the name of no module with an adapter; there are down_proj, k_proj, v_proj',
    ],
    [["--method", "ia3", "--targets", "lm_head"], "--targets lm_head: --method ia3 has none of it"],
    [["--method", "full", "--rank", "8"], "--rank is for adapters; got --method full, which trains all weights"],
    [["--method", "full", "--no-rslora"], "--rslora is for adapters; got --method full"],
  ])("%j", async (flags, message) => {
    expect(await asked(...flags)).toContain(message);
  });
});

describe("adapters of other tools say the way out", () => {
  const odd = (name: string, files: Readonly<Record<string, string>>) => {
    mkdirSync(path(name), { recursive: true });
    for (const [file, text] of Object.entries(files)) {
      mkdirSync(join(path(name), file, ".."), { recursive: true });
      writeFileSync(path(name, file), text);
    }
    return refused("merge", "--model", model, "--adapter", path(name), "--out", path("never"));
  };

  test("a pickle, MLX-LM, a trainer's folder with checkpoints inside", async () => {
    const pickle = await odd("pickle", { "adapter_config.json": "{}", "adapter_model.bin": "" });
    expect(pickle).toContain("adapter_model.bin, a pickle, which is not read; load the adapter with PEFT and save it again");
    const mlx = await odd("mlx", { "adapter_config.json": "{}", "adapters.safetensors": "" });
    expect(mlx).toContain("an adapter of MLX-LM (adapters.safetensors), not one of PEFT; write a whole model with mlx_lm.fuse");
    const trainer = await odd("trainer", {
      "checkpoint-90/adapter_config.json": "{}",
      "checkpoint-500/adapter_config.json": "{}",
    });
    expect(trainer).toContain(`${path("trainer", "checkpoint-500")} holds an adapter: give that folder`);
    // The same where the folder is given as the model.
    for (const [name, message] of Object.entries({ mlx: "mlx_lm.fuse", trainer: "checkpoint-500 holds an adapter" }))
      expect(await refused("eval", "--model", path(name), "--data", data)).toContain(message);
  });

  test("names with the adapter's own are read, with what the module was before", async () => {
    const run = path("named");
    await ok(
      "train",
      "--model",
      model,
      "--output",
      run,
      ...training,
      "--method",
      "dora",
      "--modules-to-save",
      "lm_head",
      "--steps",
      "2",
      "--no-sample",
    );
    const file = join(run, "adapter_model.safetensors");
    const named = tensors(file).flatMap((tensor): TensorData[] => {
      const name = tensor.name
        .replace(/\.(lora_[AB])\.weight$/, ".$1.default.weight")
        .replace(/magnitude_vector$/, "magnitude_vector.default.weight");
      if (!name.endsWith("lm_head.weight")) return [{ ...tensor, name }];
      return [
        { ...tensor, name: name.replace("lm_head", "lm_head.modules_to_save.default") },
        { ...tensor, name: name.replace("lm_head", "lm_head.original_module") },
      ];
    });
    const other = path("named-default");
    mkdirSync(other);
    cpSync(join(run, "adapter_config.json"), join(other, "adapter_config.json"));
    writeSafetensors(join(other, "adapter_model.safetensors"), named);
    expect(await lossOf("--model", model, "--adapter", other)).toBe(await lossOf("--model", model, "--adapter", run));
  });

  test("one of a larger vocabulary says how to save its base model", async () => {
    const run = path("resized");
    await ok(
      "train",
      "--model",
      model,
      "--output",
      run,
      ...training,
      "--targets",
      "q_proj",
      "--modules-to-save",
      "embed_tokens",
      "--steps",
      "1",
      "--no-sample",
    );
    const file = join(run, "adapter_model.safetensors");
    const grown = tensors(file).map((tensor) => {
      if (!tensor.name.endsWith("embed_tokens.weight")) return tensor;
      const [rows, columns] = tensor.shape as [number, number];
      return { ...tensor, shape: [rows + 3, columns], data: new Float32Array((rows + 3) * columns) };
    });
    const other = path("resized-more");
    mkdirSync(other);
    cpSync(join(run, "adapter_config.json"), join(other, "adapter_config.json"));
    writeSafetensors(join(other, "adapter_model.safetensors"), grown);
    const { code, stderr } = await remat(["eval", "--model", model, "--adapter", other, "--data", data]);
    expect([code, stderr]).toEqual([2, expect.stringContaining("it was trained with another vocabulary")]);
    expect(stderr).toContain("resize_token_embeddings(");
  });
});

test("a run's configuration keeps patterns and modules, and goes on with them", async () => {
  renameSync(path("dora"), path("moved"));
  const { rankPattern, alphaPattern, method } = JSON.parse(readFileSync(path("moved", "train-config.json"), "utf8")) as Record<
    string,
    unknown
  >;
  expect({ rankPattern, alphaPattern, method }).toEqual({
    rankPattern: { q_proj: 3, "layers.1.mlp.down_proj": 2 },
    alphaPattern: { v_proj: 5 },
    method: "dora",
  });
  await ok("train", path("moved"), "--resume", "--steps", "21", "--no-sample");
});
