import { type Chain, type Link, variantsOf } from "../chain.ts";
import { NO_STEPS, NONE, type Recurrence } from "./recurrence.ts";

/**
 * The recurrence with the choice to have inputs and tapes outside, where a transfer costs `scale` times what it takes. Of
 * the tapes in an interval s..t only those of t, t - stride, t - 2 stride .. may leave.
 */
export function pagedRecurrence(chain: Chain, link: Link, base: Recurrence, scale: number, stride: number): Recurrence {
  const { a } = chain;
  const tapes = Array.from({ length: chain.n + 1 }, (_, i) => (i === 0 ? [] : variantsOf(chain, i).map(({ r }) => r)));
  const row = (of: number, copied: boolean) => (of === NONE ? NONE : 2 * of + (copied ? 1 : 0));
  const leaves = (bytes: number) => bytes > 0 && bytes >= link.leastBytes;
  const timeOut = scale / link.out;
  const timeIn = scale / link.in;
  return {
    rows: 2 * base.rows,
    order: Int32Array.from([...base.order].flatMap((of) => [2 * of, 2 * of + 1])),
    forC: (s, t) => row(base.forC(s, t), false),
    forD: (s, q, k) => row(base.forD(s, q, k), false),
    subproblem: (of) => {
      const [s, t, k] = base.subproblem(of >> 1);
      return [s, t, k, (of & 1) === 1];
    },
    options(s, t, k, copied, visit) {
      const input = a[s - 1]!;
      const inputLeaves = leaves(input);
      const inputTime = input * (timeIn + (copied ? 0 : timeOut));
      base.options(s, t, k, false, (option) => {
        const { choice, time, deep, deepTaken, rest } = option;
        const taped = choice === "tape" ? s : choice === "retape" ? option.q : NONE;
        const tape = taped === NONE ? 0 : tapes[taped]![option.k]!;
        const inputWays = inputLeaves && deep !== NONE && (choice === "tape" || rest !== NONE) ? 1 : 0;
        const tapeWays = leaves(tape) && stride > 0 && (t - taped) % stride === 0 ? 1 : 0;
        option.deep = row(deep, false);
        // The option is the base's own, which it overwrites for the next one: no copies in the innermost loop.
        for (let input1 = 0; input1 <= inputWays; input1++) {
          for (let tape1 = 0; tape1 <= tapeWays; tape1++) {
            option.pagesInput = input1 === 1;
            option.pagesTape = tape1 === 1;
            option.rest = row(rest, copied || option.pagesInput);
            option.time = time + input1 * inputTime + tape1 * tape * (timeIn + timeOut);
            option.deepTaken = deepTaken - input1 * input - tape1 * tape;
            visit(option);
          }
        }
      });
    },
    // Everything inside is the fastest, everything outside the smallest; a copy outside changes neither.
    extremes(s, t, k, copied, visit) {
      if (copied) {
        visit({ ...NO_STEPS, deep: row(k === NONE ? base.forC(s, t) : base.forD(s, t, k), false) });
        return;
      }
      const input = a[s - 1]!;
      const inputLeaves = leaves(input);
      base.options(s, t, k, false, (option) => {
        const { choice, deep, deepTaken, rest } = option;
        const taped = choice === "tape" ? s : choice === "retape" ? option.q : NONE;
        const tape = taped === NONE ? 0 : tapes[taped]![option.k]!;
        const pagesInput = inputLeaves && deep !== NONE && (choice === "tape" || rest !== NONE);
        const pagesTape = leaves(tape) && stride > 0 && (t - taped) % stride === 0;
        option.deep = row(deep, false);
        option.rest = row(rest, false);
        visit(option);
        if (!pagesInput && !pagesTape) return;
        option.time = Infinity;
        option.deepTaken = deepTaken - (pagesInput ? input : 0) - (pagesTape ? tape : 0);
        visit(option);
      });
    },
  };
}
