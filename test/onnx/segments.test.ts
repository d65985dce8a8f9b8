import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { programsOf } from "../../src/graph/segment.ts";
import { readModel } from "../../src/onnx/read.ts";
import { fileNameOf, writeSegmentModels } from "../../src/onnx/segments.ts";
import { writeModel } from "../../src/onnx/write.ts";
import { filesIn, temporaryFolder, userError } from "../hf/temp.ts";
import { generator, runGraph, type TestTensor } from "../support/ops.ts";
import { expectParity } from "../support/ort.ts";
import { addFeeds, addOutputs, chain, CHAINS, LORA } from "../support/segments.ts";

setDefaultTimeout(120_000);

describe("segment models in a folder", () => {
  const folder = temporaryFolder();
  const segments = chain(LORA, "f32");
  writeSegmentModels(folder, segments);

  test("identical blocks share one file per program", () => {
    expect(filesIn(folder)).toEqual([
      "block-first.backward.onnx",
      "block-first.forward-taped.onnx",
      "block-first.forward.onnx",
      "block.backward.onnx",
      "block.forward-taped.onnx",
      "block.forward.onnx",
      "embedding.forward.onnx",
      "head.forward-backward.onnx",
      "head.forward.onnx",
      "segments.json",
    ]);
  });

  test("segments.json says which files and parameters each segment uses", () => {
    const { segments: entries } = JSON.parse(readFileSync(join(folder, "segments.json"), "utf8"));
    expect(entries.map((entry: { name: string }) => entry.name)).toEqual(segments.map((segment) => segment.name));
    expect(entries[2]).toMatchObject({
      name: "model.layers.1",
      model: "block",
      files: { forward: "block.forward.onnx", "forward-taped": "block.forward-taped.onnx", backward: "block.backward.onnx" },
    });
    expect(entries[2].params["mlp.up_proj.weight"]).toBe("model.layers.1.mlp.up_proj.weight");
  });

  test("each file gives its graph back", () => {
    for (const model of new Set(segments.map((segment) => segment.model))) {
      for (const [program, graph] of programsOf(model)) {
        const path = join(folder, fileNameOf(model, program));
        const back = readModel(readFileSync(path), path);
        expect(back.inputs).toEqual(graph.inputs);
        expect(back.outputs).toEqual(graph.outputs);
        expect(back.types).toEqual(graph.types);
        expect(back.nodes.map(({ op, inputs, outputs }) => [op, inputs, outputs])).toEqual(
          graph.nodes.map(({ op, inputs, outputs }) => [op, inputs, outputs]),
        );
        expect(writeModel(back)).toEqual(writeModel(graph));
      }
    }
  });

  test("a folder that cannot be made gives one clear error", () => {
    const path = join(folder, "segments.json", "sub");
    expect(userError(() => writeSegmentModels(path, segments))).toContain(`cannot create the folder ${path}`);
  });
});

describe("each program of a model: kernels and ONNX Runtime agree, relative error <= 1e-5", () => {
  test.each(CHAINS)("%s", async (_, tuning, weights) => {
    const rng = generator(5);
    for (const model of new Set(chain(tuning, weights).map((segment) => segment.model))) {
      const feeds = new Map<string, TestTensor>();
      for (const [program, graph] of programsOf(model)) {
        addFeeds(graph, feeds, rng);
        await expectParity(graph, feeds, 1e-5);
        if (program === "forward-taped") addOutputs(graph, await runGraph(graph, feeds), feeds);
      }
    }
  });
});
