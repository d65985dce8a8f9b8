/**
 * The part of one expert in a matrix [rows, rank * E] of all, as PEFT lays out B: its columns are those of every expert in turn, for one rank after
 * the other.
 */
import { int, partEnd, partStart, pointer } from "./command";
import { Opcode } from "./opcodes";

/**
 * Scalars: rows, rank, E, expert, 1 where rows of gate and up come by turns, which in a part are gate's above up's.
 * - TakeExpert: matrix, part [rows, rank]: part = the expert's columns
 * - PutExpert: part, matrix: the other way round
 */
export function expertPartCommand(opcode: u32): void {
  const rows = int(0), rank = int(1), experts = int(2);
  const takes = opcode == Opcode.TakeExpert;
  const byTurns = int(4) != 0;
  const apart = <usize>experts << 2;
  const end = partEnd(rows, 1);
  for (let row = partStart(rows, 1); row < end; row++) {
    const place = byTurns ? (row & 1) * (rows >> 1) + (row >> 1) : row;
    let part = (takes ? pointer(1) : pointer(0)) + (<usize>(place * rank) << 2);
    let at = (takes ? pointer(0) : pointer(1)) + <usize>(row * rank) * apart + (<usize>int(3) << 2);
    for (let i = 0; i < rank; i++, part += 4, at += apart) {
      if (takes) store<f32>(part, load<f32>(at));
      else store<f32>(at, load<f32>(part));
    }
  }
}
