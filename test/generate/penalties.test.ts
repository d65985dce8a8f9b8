import { describe, expect, test } from "bun:test";
import { createRandom } from "../../src/base/random.ts";
import { logprobsOf, tellingLogprobs, type ChosenToken } from "../../src/generate/logits/logprobs.ts";
import { createPenalties } from "../../src/generate/logits/penalties.ts";
import { createSampler, GREEDY } from "../../src/generate/sampler.ts";

describe("penalties", () => {
  test("OpenAI's formula: of tokens that the answer has, not the prompt, by their number and once; then the bias", () => {
    const rule = createPenalties({
      presence: 0.5,
      frequency: 0.25,
      bias: new Map([
        [3, -100],
        [0, 2],
      ]),
    });
    const after = (text: readonly number[]) => {
      const logits = Float32Array.of(1, 2, 3, 4);
      rule(logits, text);
      return [...logits];
    };
    const prompt = [1, 1, 2];
    expect(after(prompt)).toEqual([3, 2, 3, -96]);
    expect(after([...prompt, 2])).toEqual([3, 2, 2.25, -96]);
    expect(after([...prompt, 2, 1])).toEqual([3, 1.25, 2.25, -96]);
    expect(after([...prompt, 2, 1, 2, 2])).toEqual([3, 1.25, 1.75, -96]);
  });

  test("negative ones draw tokens in, and any are added up without rounding in between", () => {
    const random = createRandom(4, "penalties");
    const [presence, frequency] = [-1.3, 0.7];
    const rule = createPenalties({ presence, frequency, bias: new Map() });
    const text: number[] = [5];
    rule(new Float32Array(8), text);
    for (let step = 0; step < 50; step++) {
      text.push(random.below(8));
      const raw = Float32Array.from({ length: 8 }, () => random.normal());
      const logits = raw.slice();
      rule(logits, text);
      for (let id = 0; id < 8; id++) {
        const count = text.slice(1).filter((token) => token === id).length;
        expect(logits[id]).toBe(Math.fround(raw[id]! - (count * frequency + (count > 0 ? presence : 0))));
      }
    }
  });
});

describe("log-probabilities", () => {
  test("are the logits' log softmax in float64; the likeliest come by falling logit, equal ones by id", () => {
    const random = createRandom(6, "logprobs");
    for (const scale of [1, 30]) {
      const logits = Float32Array.from({ length: 1000 }, () => Math.fround(scale * random.normal()));
      logits[700] = logits[20]!;
      const sum = logits.reduce((total, logit) => total + Math.exp(logit), 0);
      const { of, top } = logprobsOf(logits, 1000);
      for (let id = 0; id < 1000; id++) expect(Math.abs(of(id) - (logits[id]! - Math.log(sum)))).toBeLessThan(1e-12 * 200);
      const sorted = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]! || a - b);
      expect(top.map(({ id }) => id)).toEqual(sorted);
      expect(logprobsOf(logits, 7).top).toEqual(top.slice(0, 7));
    }
    const { of, top } = logprobsOf(Float32Array.of(0, -Infinity, 0), 0);
    expect(of(1)).toBe(-9999);
    expect(of(0)).toBeCloseTo(Math.log(0.5), 12);
    expect(top).toEqual([]);
  });

  test("are the model's, whatever bends the choice", () => {
    const told: ChosenToken[] = [];
    const rule = createPenalties({ presence: 0, frequency: 0, bias: new Map([[2, 100]]) });
    const sampler = tellingLogprobs(createSampler(GREEDY, [rule]), 1, (chosen) => told.push(chosen));
    expect(sampler(Float32Array.from([0.5, 0.25, 0.25].map(Math.log)), [0])).toBe(2);
    expect(told).toHaveLength(1);
    expect(told[0]!.id).toBe(2);
    expect(told[0]!.logprob).toBeCloseTo(Math.log(0.25), 6);
    expect(told[0]!.top[0]!.id).toBe(0);
  });

  test("a token that cannot be is never drawn, whatever is rounded", () => {
    const logits = () => Float32Array.from({ length: 3000 }, (_, id) => (id % 3 === 0 ? -Infinity : Math.log(1 + (id % 7))));
    for (const options of [{}, { topK: 2900 }, { topP: 0.9999999 }, { temperature: 0 }]) {
      const sampler = createSampler({ ...GREEDY, temperature: 1, seed: 3, ...options });
      for (let draw = 0; draw < 200; draw++) expect(sampler(logits(), []) % 3).not.toBe(0);
    }
  });
});
