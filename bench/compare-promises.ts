/** What Remat promises beside PyTorch and beside itself, as least ratios of rates and most of peak memory. */
import { medianOf, type SystemRuns } from "./compare-rows.ts";

/** A system beside another one, both by their names in compare.ts. */
interface Promised {
  readonly system: string;
  readonly beside: string;
  readonly rate?: number;
  readonly memory?: number;
}

const inBf16: readonly Promised[] = [
  { system: "products", beside: "pytorch-bf16-none", rate: 1.3, memory: 0.6 },
  { system: "products", beside: "pytorch-compiled", rate: 1 },
  { system: "products-least", beside: "pytorch-bf16", rate: 1.3, memory: 0.5 },
];
const inF32 = ["default", "half"].map((system): Promised => ({ system, beside: "pytorch-none", rate: 1.35, memory: 0.5 }));
const wasmAlone = (rate: number): Promised => ({ system: "wasm-default", beside: "pytorch", rate });

/** By shape, tokens, and layers where there are not all. */
const PROMISES: Readonly<Record<string, readonly Promised[]>> = {
  "smollm2-135m 512": [
    ...inBf16,
    ...inF32,
    wasmAlone(0.85),
    { system: "full", beside: "pytorch-full", rate: 1.3, memory: 0.85 },
    { system: "full-8bit", beside: "pytorch-full", memory: 0.6 },
  ],
  "smollm2-135m 2048": [...inBf16, ...inF32, wasmAlone(0.75)],
  "smollm2-135m 8192 6": [
    { system: "bf16", beside: "pytorch-none", rate: 1.3, memory: 0.15 },
    { system: "products-least", beside: "pytorch-bf16-none", rate: 1.1, memory: 0.15 },
  ],
  "qwen2.5-0.5b 512": inBf16,
  // A step takes no more than 10 % longer.
  "qwen2.5-1.5b 512 8": [{ system: "nf4", beside: "bf16", rate: 1 / 1.1 }],
  "qwen2.5-3b 512 8": [{ system: "nf4", beside: "bf16", rate: 1 / 1.1 }],
};

/** What was promised of two systems that both ran. */
export interface Outcome {
  readonly text: string;
  readonly isKept: boolean;
}

/** Holds medians against what is promised of them. `layers` is null where the model has all. */
export function outcomesOf(
  all: readonly SystemRuns[],
  { shape, tokens, layers }: { readonly shape: string; readonly tokens: number; readonly layers: string | null },
): Outcome[] {
  const promises = PROMISES[[shape, tokens, ...(layers === null ? [] : [layers])].join(" ")] ?? [];
  return promises.flatMap(({ system, beside, rate, memory }) => {
    const [own, other] = [system, beside].map((name) => all.find((one) => one.system === name));
    if (!own || !other) return [];
    const ratio = (quantity: "tokensPerSecond" | "peakRss") => medianOf(own, quantity) / medianOf(other, quantity);
    const [fast, large] = [ratio("tokensPerSecond"), ratio("peakRss")];
    const parts = [
      ...(rate === undefined
        ? []
        : [{ text: `${fast.toFixed(2)} of the rate (${Number(rate.toFixed(2))} at least)`, isKept: fast >= rate }]),
      ...(memory === undefined
        ? []
        : [{ text: `${large.toFixed(2)} of the memory (${memory} at most)`, isKept: large <= memory }]),
    ];
    const isKept = parts.every((part) => part.isKept);
    const text = parts.map((part) => part.text).join(", ");
    return [{ text: `${isKept ? "kept" : "BROKEN"}: ${shape}, ${tokens} tokens, ${system} beside ${beside}: ${text}`, isKept }];
  });
}
