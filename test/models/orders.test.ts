import { expect, test } from "bun:test";
import { createRandom } from "../../src/base/random.ts";
import { gathered } from "../../src/gguf/encode.ts";
import { byTurns, half, neighbours, ofGroups, run } from "../../src/models/families/orders.ts";
import { separateRows } from "../support/gguf-models.ts";

test("features i and i + dim / 2 become neighbours in each head", () => {
  expect(neighbours(run(12), 2)).toEqual([0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
  const random = createRandom(3);
  const values = Float32Array.from({ length: 4 * 6 * 5 }, () => random.uniform());
  expect(separateRows(gathered(values, 5, neighbours(run(24), 4), null), 4, 5)).toEqual(values);
});

test("halves, turns and parts of groups", () => {
  expect([half(0)(6), half(1)(6)]).toEqual([run(3), [3, 4, 5]]);
  expect([byTurns(0)(6), byTurns(1)(6)]).toEqual([
    [0, 2, 4],
    [1, 3, 5],
  ]);
  expect(ofGroups(5, 1, 2)(10)).toEqual([1, 2, 6, 7]);
});

test("rows and columns of a matrix are taken in an order", () => {
  const values = Float32Array.from({ length: 6 }, (_, i) => i);
  expect([...gathered(values, 3, [1], null)]).toEqual([3, 4, 5]);
  expect([...gathered(values, 3, [1, 0], [2, 0])]).toEqual([5, 3, 2, 0]);
  expect([...gathered(values, 3, null, [1])]).toEqual([1, 4]);
});
