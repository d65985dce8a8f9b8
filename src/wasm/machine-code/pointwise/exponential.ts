/** The exponential, and the numbers that all formulas with it share. */
import { type Assembler, at, type Mask, type Memory, RDI } from "../assembler.ts";
import { NUMBERS, NUMBERS_AT, SHARED_NUMBERS } from "../layout.ts";

/** The numbers that are shared have registers from this one on; others are read where they are needed. */
const FIRST_NUMBER = 16;
const NAMES = Object.keys(NUMBERS) as (keyof typeof NUMBERS)[];
export const number = (name: keyof typeof NUMBERS): number => FIRST_NUMBER + NAMES.indexOf(name);
export const numberAt = (name: keyof typeof NUMBERS): Memory => at(RDI, NUMBERS_AT + 4 * NAMES.indexOf(name));

export function loadNumbers(a: Assembler): void {
  for (const name of NAMES.slice(0, SHARED_NUMBERS)) a.load("vbroadcastss", number(name), numberAt(name));
}

/** Registers that an exponential needs, none of which is its x. */
export const [POWER, REST, SQUARE] = [13, 14, 15] as const;

/** to = exp(x), as `expCore` of assembly/math.ts; 0 in lanes that `kept` does not have, if it is given. */
export function exponential(a: Assembler, to: number, x: number, kept?: Mask): void {
  a.vector("vmulps", POWER, x, number("perLn2"));
  a.vector("vaddps", POWER, POWER, number("shift"));
  a.vector("vsubps", to, POWER, number("shift"));
  a.vector("vmulps", REST, to, number("ln2High"));
  a.vector("vsubps", REST, x, REST);
  a.vector("vmulps", to, to, number("ln2Low"));
  a.vector("vsubps", REST, REST, to);
  a.vector("vmulps", SQUARE, REST, REST);
  a.vector("vmulps", to, REST, number("q4"));
  a.vector("vaddps", to, to, number("q3"));
  for (const q of ["q2", "q1", "q0"] as const) {
    a.vector("vmulps", to, to, REST);
    a.vector("vaddps", to, to, number(q));
  }
  a.vector("vmulps", to, to, SQUARE);
  a.vector("vaddps", to, to, REST);
  a.vector("vaddps", to, to, number("one"));
  a.shiftLeft(POWER, POWER, 23);
  if (kept === undefined) a.vector("vmulps", to, to, POWER);
  else a.vectorKept("vmulps", to, to, POWER, kept);
}
