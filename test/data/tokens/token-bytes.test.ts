import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { tokenBytesOf } from "../../../src/data/tokens/token-bytes.ts";
import { createTokenizer, loadTokenizer } from "../../../src/data/tokens/tokenizer.ts";

const golden = join(import.meta.dir, "../../golden/tokenizers");
const names = readdirSync(golden, { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map(({ name }) => name);

test("the bytes of a text's tokens in a row are the text, but for a blank that decoders strip from its start", async () => {
  expect(names.length).toBeGreaterThan(8);
  for (const name of names) {
    const tokenizer = loadTokenizer(join(golden, name));
    const bytes = tokenBytesOf(tokenizer)!;
    expect(bytes.size).toBe(tokenizer.size);
    const { texts } = (await Bun.file(join(golden, name, "cases.json")).json()) as {
      texts: { ids: number[]; decoded: string }[];
    };
    let compared = 0;
    for (const { ids, decoded } of texts) {
      const joined = Buffer.concat(ids.map((id) => bytes.of(id))).toString();
      if (![decoded, ` ${decoded}`].includes(joined)) throw new Error(`${name}: ${JSON.stringify([joined, decoded])}`);
      compared++;
    }
    expect(compared).toBeGreaterThan(20);
  }
});

test("they are not known where tokens are joined with something between them", () => {
  const { json } = loadTokenizer(join(golden, "smollm"));
  for (const decoder of [
    null,
    { type: "WordPiece", prefix: "##", cleanup: true },
    { type: "Strip", content: " ", start: 1, stop: 0 },
  ])
    expect(tokenBytesOf(createTokenizer({ ...json, decoder }))).toBeNull();
});
