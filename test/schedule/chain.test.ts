import { describe, expect, test } from "bun:test";
import { ChainError, idealTime, makeChain, parseChain, variantsOf } from "../../src/schedule/chain.ts";
import { formatOp, parseOp, parseSchedule } from "../../src/schedule/ops.ts";
import { golden } from "./chains.ts";

const small = { a: [2, 1, 1, 0], r: [5, 5, 5], uf: [1, 1, 1], ub: [2, 2, 2] };

describe("chain", () => {
  test("what is missing takes its default", () => {
    const chain = makeChain(small);
    expect(chain.n).toBe(3);
    expect(chain.g).toEqual([0, 1, 1, 0]);
    expect(chain.of).toEqual([0, 0, 0]);
    expect(chain.ot).toEqual([0, 0, 0]);
    expect(chain.w).toEqual([0, 0, 0]);
    expect(chain.frozen).toBe(0);
    expect(chain.variants).toEqual([[], [], []]);
    expect(chain.replay).toEqual([null, null, null]);
  });

  test("the taped forward has the forward's workspace unless it has its own", () => {
    expect(variantsOf(makeChain({ ...small, of: [1, 2, 3] }), 2)[0]!.of).toBe(2);
    expect(variantsOf(makeChain({ ...small, of: [1, 2, 3], ot: [4, 5, 6] }), 2)[0]!.of).toBe(5);
  });

  test.each([
    [{ ...small, r: [5, 5] }, /r must have 3 entries.*has 2/],
    [{ ...small, g: [0, 1] }, /g must have 4 entries.*has 2/],
    [{ ...small, a: [1] }, /a must list.*1 entries/],
    [{ ...small, a: [2, -1, 1, 0] }, /a\[1\] must be a finite number that is not negative, but is -1/],
    [{ ...small, uf: [1, NaN, 1] }, /uf\[1\] .*NaN/],
    [{ ...small, ub: [1, Infinity, 1] }, /ub\[1\] .*Infinity/],
    [{ ...small, r: [5, "5", 5] }, /r\[1\] .*"5"/],
    [{ ...small, r: 5 }, /r must be an array, but is 5/],
    [{ ...small, n: 4 }, /n must be .* 3, but is 4/],
    [{ ...small, frozen: 3 }, /frozen must be less than .* 3/],
    [{ ...small, frozen: 0.5 }, /frozen must be a whole number/],
    [{ ...small, variants: [null, null] }, /variants must have 3 entries/],
    [{ ...small, variants: [[{ uf: 1, ub: 1 }], null, null] }, /variants\[0\]\[0\]\.r /],
    [{ ...small, replay: [null, { ub: -1 }, null] }, /replay\[1\]\.ub /],
    [[], /the chain must be an object/],
    [null, /the chain must be an object, but is null/],
  ])("an error names the entry, what it must be and what it is: %#", (value, message) => {
    expect(() => parseChain(value)).toThrow(ChainError);
    expect(() => parseChain(value)).toThrow(message);
  });

  test("ideal times of the worked cases", () => {
    for (const { chain, ideal_time } of golden.cases) {
      expect(idealTime({ ...chain, replay: chain.replay.map(() => null) })).toBeCloseTo(ideal_time, 9);
    }
  });
});

describe("steps as text", () => {
  test("every step reads back as it was written", () => {
    const texts = ["FC 1", "FN 2", "FA 3 1", "B 3", "BR 3", "DA 2", "DT 2"];
    expect(parseSchedule(texts).map(formatOp)).toEqual(texts);
  });

  test("FA without a variant is variant 0", () => expect(parseOp("FA 3")).toEqual({ kind: "FA", i: 3, k: 0 }));

  test.each(["", "FC", "F 1", "FC 1 2", "FC -1", "DA 1.5", "fc 1"])("%p is not a step", (text) => {
    expect(() => parseOp(text)).toThrow(/expected a step such as/);
  });
});
