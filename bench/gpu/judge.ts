/** Least and most of what the assertions of `bench/gpu.ts` ask for, and what is aimed at. */
const SPEED = { least: 0.7, aim: 1.2 };
const MEMORY = { most: 1, aim: 0.6 };
/** The share of the prediction that a measurement may be off by. */
const PREDICTION = 0.02;

export interface Measured {
  readonly tokensPerSecond: number;
  readonly stepSeconds: number;
  /** Bytes that the system's allocator took. */
  readonly peakDeviceMemory: number;
  /** All that was taken on the card, CUDA's context too; by nobody else, it is hoped. */
  readonly cardMemory?: number;
}

export interface RematStep extends Measured {
  readonly firstLoss: number;
  readonly loss: number;
  readonly predictedPeak: number;
  readonly measuredPeak: number;
}

export interface Check {
  readonly what: string;
  readonly passed: boolean;
  readonly detail: string;
}

export const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(2)} GiB`;

/** Returns all assertions about a step of ours and one of another system; null: it was not measured, which is told elsewhere. */
export function judge(ours: RematStep | null, peer: Measured | null, isCuda: boolean): Check[] {
  if (!ours) return [];
  // Random weights: the first loss is about that of guessing.
  const { firstLoss, loss } = ours;
  const off = Math.abs(ours.measuredPeak / ours.predictedPeak - 1);
  const alone: Check[] = [
    { what: "loss", passed: loss < firstLoss, detail: `${firstLoss.toFixed(4)} to ${loss.toFixed(4)}` },
    { what: "predicted memory", passed: off <= PREDICTION, detail: `${(100 * off).toFixed(2)} % off` },
  ];
  if (!peer) return alone;
  const speed = ours.tokensPerSecond / peer.tokensPerSecond;
  const rates = `${ours.tokensPerSecond.toFixed(0)} tokens/s, PyTorch ${peer.tokensPerSecond.toFixed(0)}`;
  const checks: Check[] = [
    ...alone,
    {
      what: "speed",
      passed: speed >= SPEED.least,
      detail: `${rates}: ${speed.toFixed(2)} (at least ${SPEED.least}, aim ${SPEED.aim})`,
    },
  ];
  if (!isCuda) return checks;
  const ratio = (what: string, own: number, other: number): Check => ({
    what,
    passed: own / other <= MEMORY.most,
    detail: `${gib(own)}, PyTorch ${gib(other)}: ${(own / other).toFixed(2)} (at most ${MEMORY.most}, aim ${MEMORY.aim})`,
  });
  checks.push(ratio("device memory of the allocator", ours.peakDeviceMemory, peer.peakDeviceMemory));
  // Both keep what they took, so that what is taken at the end is the peak.
  if (ours.cardMemory !== undefined && peer.cardMemory !== undefined)
    checks.push(ratio("device memory in all", ours.cardMemory, peer.cardMemory));
  return checks;
}
