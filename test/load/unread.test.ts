import { expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openSafetensors, readBytes } from "../../src/hf/weights/safetensors.ts";
import { type TensorData, writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { openModel } from "../../src/load/open-model.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { copyFolder, ok, refused, remat, writeTinyModel } from "../support/cli.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const model = writeTinyModel(join(folder, "model"), {
  num_hidden_layers: 2,
  hidden_size: 16,
  head_dim: 4,
  intermediate_size: 16,
});
const data = join(folder, "data.jsonl");
writeFileSync(data, '{"prompt": "Define king. ", "completion": "A thing."}\n'.repeat(4));
const f32 = (name: string, shape: readonly number[], value = 0.5): TensorData => ({
  name,
  dtype: "f32",
  shape,
  data: new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(value),
});

/** A copy of the model with further tensors in its file. */
function withTensors(name: string, more: (own: (tensor: string) => Float32Array) => readonly TensorData[]): string {
  const copy = copyFolder(model, join(folder, name));
  const path = join(copy, "model.safetensors");
  const source = openSafetensors(path);
  const tensors = [...source.tensors.values()].map((entry): TensorData => ({
    name: entry.name,
    dtype: entry.dtype!,
    shape: entry.shape,
    data: readBytes(source, entry),
  }));
  const own = (tensor: string) => new Float32Array(readBytes(source, source.tensors.get(tensor)!).buffer);
  const added = more(own);
  source.close();
  writeSafetensors(path, [...tensors, ...added]);
  return copy;
}

test("a bias that config.json does not know is refused by name", async () => {
  const biased = withTensors("biased", () => [f32("model.layers.1.self_attn.q_proj.bias", [16])]);
  const message = 'nothing reads tensor "model.layers.1.self_attn.q_proj.bias"';
  expect(await refused("eval", "--model", biased, "--data", data)).toContain(message);
  expect(await refused("train", "--model", biased, "--data", data, "--output", join(folder, "never"))).toContain(message);
});

test("further layers and strangers are told, tensors that every model computes are not", async () => {
  const larger = withTensors("larger", () => [
    f32("model.layers.2.self_attn.q_proj.weight", [16, 16]),
    f32("model.layers.0.self_attn.rotary_emb.inv_freq", [2]),
    // The mask of a GPT-NeoX.
    f32("model.layers.0.attention.bias", [1, 1, 4, 4]),
    f32("model.extra.weight", [3]),
  ]);
  const { code, stderr } = await remat(["eval", "--model", larger, "--data", data]);
  expect(code).toBe(0);
  expect(stderr).toBe(
    "note: nothing reads these tensors of the checkpoint, which stay as they are: model.extra.weight, model.layers.2.self_attn.q_proj.weight\n",
  );
  expect((await remat(["eval", "--model", model, "--data", data])).stderr).toBe("");
});

test("a tied model with a head of its own is untied, as Transformers 5 does; with the same head it is not", async () => {
  const embedding = "model.embed_tokens.weight";
  const loss = async (name: string) => /loss (\S+),/.exec(await ok("eval", "--model", name, "--data", data))![1];
  const same = withTensors("same-head", (own) => [{ ...f32("lm_head.weight", [2048, 16]), data: own(embedding) }]);
  const other = withTensors("other-head", (own) => [
    { ...f32("lm_head.weight", [2048, 16]), data: own(embedding).map((value) => -value) },
  ]);
  expect((await openModel({ model: same })).config.tieWordEmbeddings).toBe(true);
  expect((await openModel({ model: other })).config.tieWordEmbeddings).toBe(false);
  expect(await loss(same)).toBe(await loss(model));
  expect(await loss(other)).not.toBe(await loss(model));
  // What the configuration would have to say.
  const untied = copyFolder(other, join(folder, "untied"));
  const path = join(untied, "config.json");
  writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), tie_word_embeddings: false }));
  expect(await loss(other)).toBe(await loss(untied));
});

test("--quantize that quantises nothing, and dropout of config.json that is not applied, are told once", async () => {
  const dropping = copyFolder(model, join(folder, "dropping"));
  const path = join(dropping, "config.json");
  writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), attention_dropout: 0.1, dropout: 0.2 }));
  const flags = ["--data", data, "--sequence-length", "32", "--quantize", "nf4", "--dry-run"];
  const { stderr } = await remat(["train", "--model", dropping, ...flags]);
  expect(stderr.match(/attention_dropout 0.1, dropout 0.2\), which is not applied/g)).toHaveLength(1);
  expect(stderr.match(/--quantize nf4 quantised nothing/g)).toHaveLength(1);
  expect((await remat(["train", "--model", model, "--data", data, "--sequence-length", "32", "--dry-run"])).stderr).not.toMatch(
    /not applied|quantised nothing/,
  );
});
