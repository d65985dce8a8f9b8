import { describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describeSampling, readGenerationConfig, SAMPLING, samplingOf } from "../../src/generate/sampling.ts";
import { temporaryFolder } from "../hf/temp.ts";

const folder = temporaryFolder();
let made = 0;

function modelWith(config?: unknown): string {
  const model = join(folder, String(made++));
  mkdirSync(model);
  if (config !== undefined) writeFileSync(join(model, "generation_config.json"), JSON.stringify(config));
  return model;
}

describe("generation_config.json", () => {
  test("its values stand in for flags that are not given; null is not given", () => {
    const config = readGenerationConfig(
      modelWith({
        do_sample: true,
        temperature: 0.6,
        top_p: 0.9,
        top_k: 50,
        min_p: null,
        repetition_penalty: 1.1,
        max_new_tokens: 33,
        eos_token_id: [1, 2],
      }),
    );
    expect(config.warnings).toEqual([]);
    const flags = { seed: 5, topP: 0.5 };
    const options = samplingOf(flags, config);
    expect(options).toEqual({
      temperature: 0.6,
      topP: 0.5,
      topK: 50,
      minP: SAMPLING.minP.fallback,
      repetitionPenalty: 1.1,
      maxNewTokens: 33,
      seed: 5,
    });
    expect(describeSampling(options, flags, config)).toBe(
      "temperature 0.6*, top_p 0.5, top_k 50*, repetition_penalty 1.1*, max_new_tokens 33* (*: generation_config.json)",
    );
  });

  test("do_sample: false is greedy, unless a flag gives a temperature", () => {
    const config = readGenerationConfig(modelWith({ do_sample: false, temperature: 0.6, top_k: 20 }));
    const options = samplingOf({ seed: 1 }, config);
    expect(options.temperature).toBe(0);
    expect(describeSampling(options, {}, config)).toBe("greedy*, max_new_tokens 512 (*: generation_config.json)");
    expect(samplingOf({ seed: 1, temperature: 0.3 }, config)).toMatchObject({ temperature: 0.3, topK: 20 });
  });

  test("without the file the defaults hold", () => {
    const config = readGenerationConfig(modelWith());
    const options = samplingOf({ seed: 1 }, config);
    expect(options).toMatchObject({ temperature: 0.7, topP: 0.95, topK: 0, minP: 0, repetitionPenalty: 1, maxNewTokens: 512 });
    expect(describeSampling(options, {}, config)).toBe("temperature 0.7, top_p 0.95, max_new_tokens 512");
  });

  test.each([
    ["temperature", -0.1],
    ["temperature", "hot"],
    ["top_p", 0],
    ["top_p", 1.5],
    ["top_k", -1],
    ["top_k", 2.5],
    ["min_p", 2],
    ["repetition_penalty", 0],
    ["max_new_tokens", 0],
    ["do_sample", "yes"],
  ])("%s = %p is out of range: a warning that names it, and the default instead", (name, value) => {
    const config = readGenerationConfig(modelWith({ [name]: value }));
    expect(config.values).toEqual({});
    expect(config.warnings).toHaveLength(1);
    expect(config.warnings[0]).toContain(`generation_config.json: ${name} is ${JSON.stringify(value)} and is not used: `);
  });

  test("a file that is no object is refused", () => {
    expect(() => readGenerationConfig(modelWith([1]))).toThrow("generation_config.json");
  });
});
