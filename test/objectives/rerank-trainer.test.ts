import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { isZero, readTensors } from "../support/golden.ts";
import { EXECUTORS, expectScheduleFree, expectSteps, type JudgedRun, runsOn, trainedJudge } from "../support/judged-runs.ts";
import { expectWithin, relativeError } from "../support/ops.ts";
import {
  drawn,
  LIST_SIZE,
  rankedBatches,
  readRerankFixture,
  RERANK_FOLDER,
  RERANK_RUNS,
  type RerankRun,
  rowsOf,
} from "../support/rerank.ts";
import { slowTest } from "../support/slow.ts";

setDefaultTimeout(120_000);

const fixture = readRerankFixture();

test("the fixture is of these micro-batches and settings (test/golden/rerank makes it anew)", () => {
  expect(fixture.runs.map(({ settings }) => settings)).toEqual([...RERANK_RUNS]);
  for (const loss of ["bce", "softmax", "listnet"] as const)
    expect(drawn(rankedBatches(loss, true)).map(rowsOf)).toEqual(fixture.batches[loss].map((batch) => [...batch]));
});

/** A run, and the weights that it has to end with. */
function judged(run: RerankRun, packing = false): { readonly run: JudgedRun; readonly ends: ReadonlyMap<string, Float32Array> } {
  const { rerankLoss, positiveWeight } = run;
  const tensors = [...readTensors(join(RERANK_FOLDER, `${run.model}.safetensors`))];
  // A decoder's head is one matrix.
  const starts = tensors.flatMap(([name, data]): [string, Float32Array][] =>
    name === "start" ? [["score.weight", data]] : name.startsWith("start.") ? [[name.slice("start.".length), data]] : [],
  );
  return {
    run: {
      run,
      objective: { objective: "rerank", rerankLoss, positiveWeight, listSize: LIST_SIZE },
      batches: rankedBatches(rerankLoss, run.model === "bert", packing),
      padId: 0,
      start: Object.fromEntries(starts),
    },
    ends: new Map(tensors.filter(([name]) => !name.startsWith("start"))),
  };
}

describe("a whole run with --objective rerank is what sentence-transformers' CrossEncoderTrainer makes of it", () => {
  for (const on of Object.keys(EXECUTORS)) {
    test.each(runsOn(on, fixture.runs).map((run) => [on, run.settings.model, run.settings.rerankLoss, run] as const))(
      "on %s: %s, %s: losses, gradient norms, the last weights and scores within 1e-4",
      async (_, _model, _loss, { settings, expected }) => {
        const { run, ends } = judged(settings);
        const { steps, weights, logits } = await trainedJudge(run, await EXECUTORS[on]!(), { name: "per-segment" });
        expectSteps(steps, expected.steps);
        expect(ends.size).toBeGreaterThan(8);
        // Adam makes steps of the rounding that a gradient of 0 is. The last bias moves all scores of a query alike, of which a softmax sees nothing.
        const isList = settings.rerankLoss !== "bce";
        const isIdle = (name: string) => isZero(name) || (isList && name.endsWith("classifier.bias"));
        for (const [name, values] of ends) if (!isIdle(name)) expectWithin(name, relativeError(weights.get(name)!, values), 1e-4);
        const all = logits.flatMap((each) => [...each]);
        const compared = (scores: readonly number[]) => (isList ? centred(scores) : scores);
        expectWithin("scores", relativeError(compared(all), compared(expected.scores)), 1e-4);
      },
    );
  }
});

function centred(values: readonly number[]): number[] {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return values.map((value) => value - mean);
}

slowTest(
  "a whole run is the same to the bit for every schedule and for 1 and 2 threads, with queries packed into rows",
  async () => {
    await expectScheduleFree(judged(RERANK_RUNS[0]!, true).run);
  },
);
