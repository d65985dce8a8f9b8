import { describe, expect, test } from "bun:test";
import { createRandom } from "../../../src/base/random.ts";
import { averageProducts } from "../../../src/fleet/federated/updates/aggregate.ts";
import { BLOCK, decode, encode, encodedBytes, encodeWithRest } from "../../../src/base/codes.ts";
import { layoutOf, valuesOf } from "../../../src/fleet/federated/updates/layout.ts";
import { meanOf, outerStep } from "../../../src/fleet/federated/updates/mean.ts";
import { jacobi, svdOfProduct } from "../../../src/fleet/federated/updates/svd.ts";
import { userError } from "../../hf/temp.ts";

const normals = (count: number, key: string, factor = 1) => {
  const random = createRandom(1, key);
  return Float32Array.from({ length: count }, () => factor * random.normal());
};
const norm = (values: Iterable<number>) => Math.sqrt([...values].reduce((sum, value) => sum + value * value, 0));

describe("codes", () => {
  test("a value is wrong by at most half a scale of its block; f32 travels as it is", () => {
    const values = normals(3 * BLOCK + 5, "codes");
    const bytes = encode(values, "int8");
    expect(bytes.length).toBe(values.length + 4 * 4);
    expect(encodedBytes(values.length, "int8")).toBe(bytes.length);
    const back = decode(bytes, values.length, "int8");
    for (let block = 0; block * BLOCK < values.length; block++) {
      const part = values.subarray(block * BLOCK, (block + 1) * BLOCK);
      const most = Math.max(...part.map(Math.abs));
      part.forEach((value, i) => expect(Math.abs(value - back[block * BLOCK + i]!)).toBeLessThanOrEqual((most / 254) * 1.00001));
    }
    expect(decode(encode(values, "f32"), values.length, "f32")).toEqual(values);
    expect([...decode(encode(new Float32Array(9), "int8"), 9, "int8")]).toEqual(Array(9).fill(0));
  });

  test("of a 135M model, rank 8 in all linear layers with A frozen, a round takes 1.28 MB each way", () => {
    // SmolLM2-135M: 30 blocks with 576 features, 3 heads of 64 for keys and values, 1536 in the MLP. B is [outputs, 8].
    const outputs = 576 + 192 + 192 + 576 + 1536 + 1536 + 576;
    expect(encodedBytes(30 * 8 * outputs, "int8")).toBe(1_283_040);
    expect(encodedBytes(30 * 8 * outputs, "int8")).toBeLessThan(2e6);
  });

  test("what codes leave out is sent later: the sum of what arrives stays within one step of the sum of what was meant", () => {
    // Values of one block 1000 times as small as its largest are lost when they are sent alone.
    const update = normals(BLOCK, "small", 1e-3);
    update[7] = 1;
    const [arrived, alone] = [new Float64Array(BLOCK), new Float64Array(BLOCK)];
    let rest: Float32Array | null = null;
    const rounds = 50;
    for (let round = 0; round < rounds; round++) {
      const coded = encodeWithRest(update, rest, "int8");
      rest = coded.rest;
      const plain = decode(encode(update, "int8"), BLOCK, "int8");
      for (let i = 0; i < BLOCK; i++) {
        arrived[i]! += coded.sent[i]!;
        alone[i]! += plain[i]!;
      }
    }
    const apart = (sums: Float64Array) => Math.max(...sums.map((sum, i) => Math.abs(sum - rounds * update[i]!)));
    expect(apart(arrived)).toBeLessThan(1.1 / 254);
    expect(apart(alone)).toBeGreaterThan(0.03);
  });

  test("other lengths and values that are not finite are refused", () => {
    expect(userError(() => decode(new Uint8Array(10), 7, "int8"))).toContain(
      "an update of 7 values in int8 has 11 bytes; got 10",
    );
    const bad = encode(normals(5, "bad"), "f32");
    new Float32Array(bad.buffer)[2] = NaN;
    expect(userError(() => decode(bad, 5, "f32"))).toContain("infinite or no number");
    const scale = encode(normals(5, "bad"), "int8");
    new Float32Array(scale.buffer, 0, 1)[0] = Infinity;
    expect(userError(() => decode(scale, 5, "int8"))).toContain("infinite or no number");
  });
});

describe("means", () => {
  test("updates count by their weights", () => {
    const mean = meanOf([
      { weight: 1, update: Float32Array.of(4, 0) },
      { weight: 3, update: Float32Array.of(0, 8) },
    ]);
    expect([...mean]).toEqual([1, 6]);
  });

  test("a learning rate of 1 without momentum is plain averaging; with momentum it is PyTorch's SGD with nesterov", () => {
    const plain = Float32Array.of(1, 2);
    outerStep(plain, null, Float64Array.of(0.5, -1), { learningRate: 1, momentum: 0 });
    expect([...plain]).toEqual([1.5, 1]);
    // torch.optim.SGD([p], lr=0.7, momentum=0.9, nesterov=True), p = [1, 2], three steps with grad = [-0.5, 1], [-0.5, 1], [1, 0].
    const [parameters, velocity] = [Float32Array.of(1, 2), new Float32Array(2)];
    for (const mean of [Float64Array.of(0.5, -1), Float64Array.of(0.5, -1), Float64Array.of(-1, 0)])
      outerStep(parameters, velocity, mean, { learningRate: 0.7, momentum: 0.9 });
    for (const [i, expected] of [1.82215, -2.3043].entries()) expect(Math.abs(parameters[i]! - expected)).toBeLessThan(1e-5);
  });
});

describe("products", () => {
  const [rank, inputs, outputs] = [3, 20, 14];
  const layout = layoutOf([
    { name: "m.lora_A.weight", shape: [rank, inputs] },
    { name: "m.lora_B.weight", shape: [outputs, rank] },
    { name: "m.other", shape: [5] },
  ]);
  const [a, b, other] = layout.parts as [(typeof layout.parts)[0], (typeof layout.parts)[0], (typeof layout.parts)[0]];
  const product = (vector: Float32Array<ArrayBuffer>) => {
    const [A, B] = [valuesOf(vector, a), valuesOf(vector, b)];
    return Float64Array.from({ length: outputs * inputs }, (_, at) => {
      let sum = 0;
      for (let k = 0; k < rank; k++) sum += B[Math.floor(at / inputs) * rank + k]! * A[k * inputs + (at % inputs)]!;
      return sum;
    });
  };
  const start = () => {
    const vector = normals(layout.size, "start");
    valuesOf(vector, b).fill(0);
    return vector;
  };

  test("singular values and vectors are those of the matrix", () => {
    const columns = Array.from({ length: 6 }, (_, i) => Float64Array.from(normals(9, `left${i}`)));
    const rows = Array.from({ length: 6 }, (_, i) => Float64Array.from(normals(7, `right${i}`)));
    // One direction twice: the rank is 5.
    columns[5] = columns[4]!.slice();
    rows[5] = rows[4]!.slice();
    const { values, left, right } = svdOfProduct(columns, rows);
    expect(values.length).toBe(5);
    for (let i = 0; i < 9; i++)
      for (let j = 0; j < 7; j++) {
        const wanted = columns.reduce((sum, column, k) => sum + column[i]! * rows[k]![j]!, 0);
        const found = values.reduce((sum, value, k) => sum + value * left[k]![i]! * right[k]![j]!, 0);
        expect(Math.abs(wanted - found)).toBeLessThan(1e-12 * values[0]!);
      }
    expect(jacobi([Float64Array.of(3, 0), Float64Array.of(0, 4)]).values).toEqual([4, 3]);
  });

  test("one node's product is kept as it is, with A where it was", async () => {
    const model = start();
    const update = normals(layout.size, "one", 0.1);
    valuesOf(update, a).fill(0);
    const { parameters, lost } = await averageProducts(layout, { parameters: model, model, velocity: null }, [
      { weight: 2, update },
    ]);
    const wanted = product(model.map((value, i) => value + update[i]!));
    const found = product(parameters);
    expect(norm(found.map((value, i) => value - wanted[i]!)) / norm(wanted)).toBeLessThan(1e-6);
    expect(norm(valuesOf(parameters, a).map((value, i) => value - valuesOf(model, a)[i]!))).toBeLessThan(1e-5);
    expect(lost!).toBeLessThan(1e-7);
    for (let i = 0; i < 5; i++)
      expect(parameters[other.begin + i]!).toBeCloseTo(model[other.begin + i]! + update[other.begin + i]!, 6);
  });

  test("the mean of products is not the product of means; its best approximation of the rank is kept, and what it lacks is said", async () => {
    const model = start();
    const updates = ["x", "y", "z"].map((key, i) => ({ weight: i + 1, update: normals(layout.size, key, 0.3) }));
    const { parameters, lost } = await averageProducts(layout, { parameters: model, model, velocity: null }, updates);
    const mean = new Float64Array(outputs * inputs);
    for (const { weight, update } of updates)
      product(model.map((value, i) => value + update[i]!)).forEach((value, i) => (mean[i]! += (weight / 6) * value));
    const apart = (vector: Float32Array<ArrayBuffer>) => norm(product(vector).map((value, i) => value - mean[i]!)) / norm(mean);
    expect(apart(parameters)).toBeCloseTo(lost!, 5);
    expect(lost!).toBeGreaterThan(0.01);
    const averaged = model.slice();
    meanOf(updates).forEach((value, i) => (averaged[i]! += value));
    expect(apart(averaged)).toBeGreaterThan(1.1 * lost!);
    // No matrix of the rank is nearer: not those beside it either.
    for (let i = 0; i < 5; i++) {
      const beside = parameters.map((value, j) => value + 1e-2 * normals(layout.size, `beside${i}`)[j]!);
      expect(apart(beside)).toBeGreaterThan(lost!);
    }
  });

  test("what codes left out of the model that nodes have is in the sum", async () => {
    const parameters = normals(layout.size, "truth", 0.5);
    const model = parameters.map((value, i) => value + normals(layout.size, "left out", 1e-2)[i]!);
    const still = [{ weight: 1, update: new Float32Array(layout.size) }];
    const next = await averageProducts(layout, { parameters, model, velocity: null }, still);
    const [wanted, found] = [product(parameters), product(next.parameters)];
    expect(norm(found.map((value, i) => value - wanted[i]!)) / norm(wanted)).toBeLessThan(1e-5);
  });
});
