import { describe, expect, test } from "bun:test";
import { UserError } from "../../src/base/errors.ts";
import { checkpointingOf, selectiveOf } from "../../src/train/memory/strategy.ts";
import { type TrainConfigInput, trainConfigSchema } from "../../src/train/config.ts";
import { userError } from "../hf/temp.ts";
import { explainingLimit, limitedMemory } from "../../src/train/memory/limit.ts";
import { parseSize } from "../../src/base/bytes.ts";
import { LimitError } from "../../src/train/memory/step-plan.ts";

const parse = (flags: Partial<TrainConfigInput>) =>
  checkpointingOf(trainConfigSchema.parse({ model: "m", data: "d", ...flags }), {
    owner: "the process",
    free: () => 2 ** 30,
    known: () => 2 ** 30,
    base: () => 100 * 2 ** 20,
  });

describe("strategies by flags", () => {
  test.each([
    [{}, { name: "auto", free: expect.any(Function) as () => number }],
    [{ strategy: "per-segment" }, { name: "per-segment" }],
    [{ offload: "auto" }, { name: "per-segment" }],
    [{ stream: "all" }, { name: "per-segment" }],
    [{ stream: "all", strategy: "sqrt" }, { name: "sqrt" }],
    [{ gradientCheckpointing: false }, { name: "off" }],
    [{ gradientCheckpointing: false, strategy: "sqrt" }, { name: "off" }],
    [{ strategy: "off" }, { name: "off" }],
    [{ strategy: "sqrt" }, { name: "sqrt" }],
    [
      { strategy: "sqrt", groups: 3 },
      { name: "sqrt", groups: 3 },
    ],
    [{ groups: 3 }, { name: "sqrt", groups: 3 }],
    [{ every: 2 }, { name: "every", k: 2 }],
    [{ first: 0 }, { name: "first", count: 0 }],
    [{ ratio: 0.5 }, { name: "ratio", ratio: 0.5 }],
    [{ groupSize: 4 }, { name: "uniform", size: 4 }],
    [{ slots: 3 }, { name: "revolve", slots: 3 }],
    [{ activationMemory: "25%" }, { name: "optimal", limit: { share: 0.25 } }],
    [
      { strategy: "optimal", activationMemory: "1 MiB" },
      { name: "optimal", limit: { bytes: 2 ** 20 } },
    ],
    [{ memory: "1GiB" }, { name: "budget", bytes: 2 ** 30, base: expect.any(Function) as () => number, owner: "the process" }],
  ] as [Partial<TrainConfigInput>, unknown][])("%j", (flags, expected) => {
    expect(parse(flags)).toEqual(expected as ReturnType<typeof parse>);
  });

  test.each([
    [{ strategy: "revolve" }, "--strategy revolve needs --slots"],
    [{ strategy: "budget" }, "--strategy budget needs --memory"],
    [{ strategy: "sqrt", slots: 3 }, "--slots belongs to --strategy revolve, but --strategy is sqrt"],
    [{ every: 2, memory: "1GiB" }, "--memory belongs to --strategy budget, but --every asks for every"],
    [{ gradientCheckpointing: false, memory: "1GiB" }, "--memory needs gradient checkpointing, which is switched off"],
    [{ activationMemory: "much" }, "--activation-memory takes a size such as 200MiB"],
    [{ activationMemory: "101%" }, "--activation-memory takes a size such as 200MiB"],
  ] as [Partial<TrainConfigInput>, string][])("%j is refused", (flags, message) => {
    expect(() => parse(flags)).toThrow(UserError);
    expect(() => parse(flags)).toThrow(message);
  });
});

test("sizes and shares", () => {
  expect(parseSize("1.5GiB")).toEqual({ bytes: 1.5 * 2 ** 30 });
  expect(parseSize("800 MB")).toEqual({ bytes: 8e8 });
  expect(parseSize("1e9")).toEqual({ bytes: 1e9 });
  expect(parseSize("50%")).toEqual({ share: 0.5 });
  for (const text of ["", "0", "-1", "5 parsecs", "0%", "120%", "GiB"]) expect(parseSize(text)).toBeNull();
});

test("a value is kept or computed again, not both", () => {
  const config = { model: "m", data: "d", keepOps: ["mlp", "q_proj"], recomputeOps: ["SwiGLU"] };
  expect(selectiveOf(trainConfigSchema.parse(config))).toEqual({ keep: ["mlp", "q_proj"], recompute: ["SwiGLU"] });
  expect(() => selectiveOf(trainConfigSchema.parse({ ...config, recomputeOps: ["q_proj"] }))).toThrow(
    "q_proj is in --keep-ops and in --recompute-ops",
  );
});

describe("--memory on a card", () => {
  const GIB = 2 ** 30;
  const on = (free: number | null, memory: string) =>
    checkpointingOf(
      trainConfigSchema.parse({ model: "m", data: "d", memory }),
      limitedMemory(
        { card: { memory: () => (free === null ? null : { free, total: 80 * GIB }), pin: () => null } },
        { offload: "auto" },
      ),
    );
  const bytesOf = (free: number | null, memory: string) => (on(free, memory) as { readonly bytes: number }).bytes;

  test("is about the card's memory: shares of what is free there, a size as it is", () => {
    expect([bytesOf(40 * GIB, "auto"), bytesOf(40 * GIB, "50%"), bytesOf(null, "8GiB")]).toEqual([32 * GIB, 20 * GIB, 8 * GIB]);
  });

  test("a card that cannot be asked is told", () => {
    expect(userError(() => on(null, "auto"))).toBe(
      "--memory: the free memory of the card cannot be asked here; give a size such as 8GiB",
    );
  });

  // 1000 MiB go to CUDA (600), weights (300) and temporary memory (100); a limit may be below that.
  test.each([1024, 100])("%d MiB, which nothing keeps: the least that works has all parts, temporary memory too", (limit) => {
    const memory = `${limit}MiB`;
    const plan = () => {
      throw new LimitError((limit - 1000) * 2 ** 20, 50 * 2 ** 20, 100 * 2 ** 20, 300 * 2 ** 20);
    };
    expect(userError(() => explainingLimit(memory, on(null, memory), plan))).toMatch(
      /the least that works is 1054 MiB \(604 MiB for CUDA itself, 300 MiB for weights, gradients and optimizer, 50\.0 MiB for activations, 100 MiB of temporary/,
    );
  });
});
