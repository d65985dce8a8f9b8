import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { embed, type EmbeddedText } from "../../src/library/texts/embed.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { ok, refused, remat } from "../support/cli.ts";
import { EMBED_FOLDER } from "../support/embed.ts";
import { EMBEDDED_TEXTS, makeEmbedFolders } from "../support/embed-folders.ts";
import { expectWithin } from "../support/ops.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const of = (name: string) => join(folder, name);

interface EncodeCase {
  readonly model: string;
  readonly options: {
    readonly prompt?: string;
    readonly prompt_name?: string;
    readonly normalize_embeddings?: boolean;
    readonly truncate_dim?: number;
  };
  readonly embeddings: readonly (readonly number[])[];
}

const fixture = JSON.parse(readFileSync(join(EMBED_FOLDER, "encode.json"), "utf8")) as {
  readonly texts: readonly string[];
  readonly cases: readonly EncodeCase[];
};

beforeAll(() => makeEmbedFolders(folder));

const write = (name: string, text: string) => {
  writeFileSync(of(name), text);
  return of(name);
};
const jsonLines = (text: string) =>
  text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown> & { embedding: number[] });

function expectClose(found: readonly ArrayLike<number>[], wanted: readonly ArrayLike<number>[], bound: number): void {
  expect(found.map(({ length }) => length)).toEqual(wanted.map(({ length }) => length));
  for (const [i, values] of wanted.entries()) {
    const size = Math.max(1, ...Array.from(values, Math.abs));
    for (let k = 0; k < values.length; k++)
      expectWithin(`number ${k} of text ${i}`, Math.abs(found[i]![k]! - values[k]!) / size, bound);
  }
}

const embeddingsOf = (texts: readonly EmbeddedText[]) => texts.map(({ embedding }) => embedding);

test("the fixture is of these texts (test/golden/embed/encode.py makes it anew)", () => {
  expect(fixture.texts).toEqual([...EMBEDDED_TEXTS]);
});

describe("embeddings are those of sentence-transformers' encode within 1e-5", () => {
  test.each(fixture.cases.map((each) => [each.model, JSON.stringify(each.options), each] as const))(
    "%s %s",
    async (model, _, { options, embeddings }) => {
      const { texts, count, dimensions } = await embed({
        model: of(model),
        texts: [...EMBEDDED_TEXTS],
        threads: 1,
        truncate: true,
        prompt: options.prompt,
        promptName: options.prompt_name,
        normalize: options.normalize_embeddings,
        dimensions: options.truncate_dim,
      });
      expect([count, dimensions]).toEqual([EMBEDDED_TEXTS.length, embeddings[0]!.length]);
      expect(texts.map(({ text }) => text)).toEqual([...EMBEDDED_TEXTS]);
      expectClose(embeddingsOf(texts), embeddings, 1e-5);
    },
  );
});

describe("remat embed", () => {
  test("takes lines, JSONL and tables, and standard input; writes a line for each text, or a .npy file", async () => {
    const texts = EMBEDDED_TEXTS.slice(0, 4);
    const { texts: expected } = await embed({ model: of("bert"), texts, threads: 1 });
    const flags = ["embed", "--model", of("bert"), "--threads", "1", "--data"];
    const printed = jsonLines(await ok(...flags, write("texts.txt", `${texts.join("\n\n")}\n`)));
    expect(printed.map(({ text, embedding }) => ({ text, embedding: Float32Array.from(embedding) }))).toEqual(
      expected as unknown as { text: unknown; embedding: Float32Array<ArrayBuffer> }[],
    );
    const table = write("texts.csv", `id,sentence\n${texts.map((text, i) => `${i},"${text}"\n`).join("")}`);
    const out = of("out.jsonl");
    const { code, stderr } = await remat([...flags, table, "--columns", "text=sentence", "--out", out]);
    expect(code).toBe(0);
    expect(stderr).toMatch(/4 texts, \d+ tokens in .*16 numbers each/);
    const written = jsonLines(readFileSync(out, "utf8"));
    expect(written.map(({ id, text }) => [String(id), text])).toEqual(texts.map((text, i) => [`${i}`, text]));
    expect(written.map(({ embedding }) => embedding)).toEqual(printed.map(({ embedding }) => embedding));
    const npy = of("out.npy");
    await ok(...flags, of("texts.txt"), "--out", npy, "--dimensions", "3");
    const bytes = readFileSync(npy);
    const begin = 10 + bytes.readUInt16LE(8);
    expect([bytes.toString("latin1", 0, 6), bytes[6], bytes[7], begin % 64]).toEqual(["\x93NUMPY", 1, 0, 0]);
    expect(bytes.toString("latin1", 10, begin).trimEnd()).toBe("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3), }");
    const numbers = Array.from({ length: 12 }, (_, i) => bytes.readFloatLE(begin + 4 * i));
    expect(bytes.length).toBe(begin + 48);
    expect(numbers).toEqual(expected.flatMap(({ embedding }) => [...embedding.subarray(0, 3)]));
    const child = Bun.spawn(["bun", "src/cli/main.ts", ...flags, "-"], {
      stdin: Buffer.from(`{"text":${JSON.stringify(texts[0])},"id":"a"}\n`),
      cwd: join(import.meta.dir, "../.."),
      stderr: "pipe",
    });
    const [line] = jsonLines(await new Response(child.stdout).text());
    expect(line!["id"]).toBe("a");
    expectClose([line!.embedding], [expected[0]!.embedding], 1e-6);
  });

  test("a text has the same embedding alone and among hundreds of other lengths, but for rounding", async () => {
    const many = Array.from({ length: 300 }, (_, i) => `${EMBEDDED_TEXTS[i % 2]!} ${"and ".repeat((i * 7) % 60)}`);
    const { texts } = await embed({ model: of("bert"), texts: many, threads: 1 });
    expect(texts.map(({ text }) => text)).toEqual(many);
    for (const i of [0, 8, 37, 299]) {
      const alone = await embed({ model: of("bert"), texts: [many[i]!], threads: 1 });
      expectClose([texts[i]!.embedding], embeddingsOf(alone.texts), 1e-5);
    }
  });

  test("the base model's prompts go along with what is trained, whole, merged or as an adapter", async () => {
    for (const name of ["dense-full", "dense-merged", "dense-lora"]) {
      const shared = { model: of(name), threads: 1 };
      const { texts } = await embed({ ...shared, texts: ["bread"], promptName: "query" });
      expect(embeddingsOf(texts)).toEqual(embeddingsOf((await embed({ ...shared, texts: ["say bread"] })).texts));
    }
  });

  test("says what it does not take, with its place, and writes nothing then", async () => {
    const never = of("never.jsonl");
    const flags = ["embed", "--threads", "1", "--out", never, "--model"];
    const texts = write("plain.txt", "a\nb\n");
    const pairs = write("mixed.jsonl", '{"text":"a"}\n{"question":"a","answer":"b"}\n');
    expect(await refused(...flags, of("bert"), "--data", pairs)).toContain(`${pairs}:2: expected {"text"}`);
    const long = write("long.txt", `a\n${"a b ".repeat(100)}\n`);
    expect(await refused(...flags, of("bert"), "--data", long)).toContain(`${long}:2: the example has 202 tokens`);
    expect(await refused(...flags, of("bert"), "--data", write("none.txt", "\n"))).toContain("there is no text to embed");
    expect(await refused("embed", "--model", of("bert"), "--data", texts, "--out", of("a.bin"))).toContain(".jsonl or .npy");
    expect(await refused(...flags, of("bert"), "--data", texts, "--dimensions", "17")).toContain("have 16 numbers");
    expect(await refused(...flags, of("bert"), "--data", texts, "--prompt-name", "query")).toContain("has no prompts");
    expect(await refused(...flags, of("sentence"), "--data", texts, "--prompt-name", "quary")).toContain(
      "has the prompts query, passage",
    );
    expect(await refused(...flags, of("sentence"), "--data", texts, "--prompt-name", "query", "--prompt", "a")).toContain(
      "exclude each other",
    );
    expect(embed({ model: of("causal"), texts: ["a", ""], threads: 1 })).rejects.toThrow("text 2: the text has no token");
    expect(existsSync(never)).toBe(false);
    writeFileSync(never, "");
    expect(await refused(...flags, of("bert"), "--data", texts)).toContain(`${never} exists`);
    await ok(...flags, of("bert"), "--data", texts, "--overwrite");
    expect(jsonLines(readFileSync(never, "utf8"))).toHaveLength(2);
  });

  test.each([
    [{ type: "Router", path: "" }, "the modules Router, Pooling in 1_Pooling are not supported"],
    [{ type: "Transformer", path: "0_Transformer" }, "Transformer in 0_Transformer"],
    [{ pooling: { pooling_mode_max_tokens: true } }, 'the pooling "pooling_mode_max_tokens" is not supported'],
    [{ pooling: { pooling_mode: ["cls", "mean"] } }, 'the pooling ["cls","mean"] is not supported'],
    [{ pooling: { pooling_mode: "lasttoken", include_prompt: false }, prompt: true }, "leaves prompts out of its embeddings"],
    [{ modules: "{}" }, "modules.json"],
  ])("a folder with %j is refused", async (change, message) => {
    const given = change as { type?: string; path?: string; pooling?: object; modules?: string; prompt?: boolean };
    const path = of("damaged");
    await Bun.$`rm -rf ${path} && cp -r ${of("sentence")} ${path}`.quiet();
    const modules = [
      { path: given.path ?? "", type: `sentence_transformers.models.${given.type ?? "Transformer"}` },
      { path: "1_Pooling", type: "sentence_transformers.models.Pooling" },
    ];
    writeFileSync(join(path, "modules.json"), given.modules ?? JSON.stringify(modules));
    if (given.pooling) writeFileSync(join(path, "1_Pooling/config.json"), JSON.stringify(given.pooling));
    expect(embed({ model: path, texts: ["a"], threads: 1 })).rejects.toThrow(message);
  });
});
