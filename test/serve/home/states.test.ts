import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { createDecoder } from "../../../src/generate/open-decoder.ts";
import { openModel } from "../../../src/load/open-model.ts";
import { createSlots } from "../../../src/serve/hosts/slots.ts";
import { createVariants } from "../../../src/serve/hosts/variants.ts";
import { createWasmExecutor } from "../../../src/wasm/executor.ts";
import { temporaryFolder } from "../../hf/temp.ts";
import { writeRandomAdapter } from "../../support/adapters.ts";
import { modelWithTokenizer } from "../../support/gguf-models.ts";

setDefaultTimeout(120_000);

const executor = await createWasmExecutor({ threads: 1 });
afterAll(() => executor.close());

test("texts of a Qwen3.5 and of its adapters are decoded in one pass, in caches that others had before, to the bit of each alone", async () => {
  const folder = temporaryFolder();
  const model = modelWithTokenizer("qwen3.5", join(folder, "model"));
  const targets = { few: ["in_proj_qkv", "q_proj"], many: ["in_proj_z", "in_proj_b", "in_proj_a", "out_proj"] };
  for (const [i, [name, modules]] of Object.entries(targets).entries())
    writeRandomAdapter(executor, model, join(folder, name), { rank: 3, targets: modules }, i);
  const names = ["few", null, "many", "few"] as const;
  const pathOf = (name: (typeof names)[number]) => (name === null ? null : join(folder, name));
  const others = await Promise.all(
    names.map(async (name) => {
      const opened = await openModel({ model, ...(name !== null && { adapter: pathOf(name)! }) });
      const { config, source, adapter } = opened;
      const decoder = createDecoder(executor, { config, source, adapter, maxTokens: 64 });
      opened.close();
      return decoder;
    }),
  );
  const opened = { ...(await openModel({ model })), dtype: undefined, quantize: undefined };
  const slots = createSlots(4);
  const own = await createWasmExecutor({ threads: 1 });
  const variants = createVariants(own, { model: opened, maxTokens: 64, slots, texts: 4, most: 8, hasRoom: () => true });
  for (const round of [0, 1]) {
    const seats = names.map((name, i) => {
      const variant = variants.enter(pathOf(name));
      const ids = Array.from({ length: 3 + ((i + 17 * round) % 23) }, (_, t) => (7 + 13 * t + i + round) % 50);
      const slot = slots.enter(variant, variant.decoders.each, ids);
      slot.decoder.startAnew(ids);
      others[i]!.startAnew([]);
      expect(slot.decoder.feed(ids)).toEqual(others[i]!.feed(ids));
      return { name, variant, slot, ids };
    });
    for (let token = 0; token < 4; token++) {
      // One of them waits for a token.
      const going = seats.filter((_, i) => token !== 2 || i !== 1);
      for (const seat of going) seat.ids = [...seat.ids, (31 * token + seat.ids.length) % 50];
      const groups = variants.groups(new Map(going.map(({ slot, variant, ids }) => [slot.index, { model: variant, ids }])));
      expect(groups).toHaveLength(1);
      const logits = new Map(groups.flatMap(({ feed }) => [...feed()]));
      for (const { name, slot, ids } of going) {
        const alone = others[seats.findIndex((seat) => seat.slot === slot)]!;
        expect([name, token, logits.get(slot.index)!]).toEqual([name, token, alone.feed(ids)]);
      }
    }
    for (const { slot } of seats) slot.leave();
  }
  own.close();
  opened.close();
});
