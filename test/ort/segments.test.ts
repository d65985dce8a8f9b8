import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { programsOf } from "../../src/graph/segment.ts";
import { runOn } from "../support/executor.ts";
import { expectWithin, generator, relativeError, runGraph, type TestTensor } from "../support/ops.ts";
import { boundFor, openOrt } from "../support/provider.ts";
import { addFeeds, addOutputs, chain, CHAINS } from "../support/segments.ts";

setDefaultTimeout(120_000);

const executor = openOrt(2);
afterAll(() => executor.close());

// Gradients lie on their accumulators, half weights stay half.
test.each(CHAINS)("programs of a chain, %s: as on the wasm executor, relative error <= 1e-5", async (_, tuning, weights) => {
  const rng = generator(6);
  for (const model of new Set(chain(tuning, weights).map((segment) => segment.model))) {
    const feeds = new Map<string, TestTensor>();
    for (const [program, graph] of programsOf(model)) {
      addFeeds(graph, feeds, rng);
      const expected = await runGraph(graph, feeds);
      const actual = runOn(executor, graph, feeds, { times: 2 });
      expect([...actual.keys()]).toEqual([...expected.keys()]);
      for (const [name, data] of actual) {
        expectWithin(`${model.id}.${program}: ${name}`, relativeError(data, expected.get(name)!), boundFor(1e-5, weights));
      }
      if (program === "forward-taped") addOutputs(graph, expected, feeds);
    }
  }
});
