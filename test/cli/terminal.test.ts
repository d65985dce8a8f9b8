import { expect, test } from "bun:test";
import { createProgress, type StepReport } from "../../src/cli/terminal/progress.ts";
import { canRewrite, columnsOf, hasColour } from "../../src/cli/terminal/terminal.ts";

test("lines are written over in a terminal alone, and coloured without NO_COLOR alone", () => {
  const terminal = { isTTY: true, columns: 90 };
  expect(canRewrite(terminal, {})).toBe(true);
  for (const env of [{ CI: "true" }, { TERM: "dumb" }])
    expect([canRewrite(terminal, env), hasColour(terminal, env)]).toEqual([false, false]);
  expect(canRewrite({}, {})).toBe(false);
  expect([hasColour(terminal, {}), hasColour(terminal, { NO_COLOR: "1" }), hasColour(terminal, { NO_COLOR: "" })]).toEqual([
    true,
    false,
    true,
  ]);
});

test("COLUMNS goes before the terminal's width", () => {
  expect(columnsOf({ columns: 90 }, { COLUMNS: "60" })).toBe(60);
  expect(columnsOf({ columns: 90 }, { COLUMNS: "wide" })).toBe(90);
  expect(columnsOf({}, {})).toBe(80);
  expect(columnsOf({ columns: 3 }, {})).toBe(20);
});

test("steps in a pipe are plain lines without control characters, now and then and at the end", () => {
  let text = "";
  let time = 0;
  const progress = createProgress({ write: (piece: string) => (text += piece) } as unknown as NodeJS.WriteStream, () => time);
  const report = (step: number): StepReport => ({
    step,
    steps: 6,
    loss: 1.5,
    learningRate: 1e-3,
    tokensPerSecond: 100,
    memory: 1 << 20,
    secondsLeft: 61,
  });
  for (let step = 1; step <= 6; step++, time += 2000) progress.step(report(step));
  const lines = text.trimEnd().split("\n");
  expect(lines.map((line) => /^step (\d+)\/6 /.exec(line)?.[1])).toEqual(["1", "4", "6"]);
  expect(text).toMatch(/^[\x20-\x7e\n]*$/);
});

test("a narrow terminal shows how far it is, the loss and the time left, and leaves other parts away", () => {
  const shown = (columns: number): string => {
    let text = "";
    const stream = { isTTY: true, columns, write: (piece: string) => (text += piece) } as unknown as NodeJS.WriteStream;
    const report = {
      step: 7,
      steps: 4000,
      loss: 1.5,
      learningRate: 1e-3,
      tokensPerSecond: 100,
      memory: 1 << 20,
      secondsLeft: 61,
    };
    createProgress(stream, () => 0, { TERM: "xterm" }).step(report);
    return text;
  };
  expect(shown(45)).toBe("step 7/4000  loss 1.5000  1 min 01 s left");
  expect(shown(60)).toBe("step 7/4000  loss 1.5000  100 tokens/s  1 min 01 s left");
  expect(shown(120)).toBe("step 7/4000  loss 1.5000  100 tokens/s  memory 1.00 MiB  lr 1.00e-3  1 min 01 s left");
});
