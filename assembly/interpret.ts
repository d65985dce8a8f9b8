/**
 * The interpreter. All threads run the same list of commands: each computes its part of a command, then waits for the
 * others, so a command sees everything that the commands before it wrote.
 *
 * Threads meet in a control block in shared memory. The thread that calls `interpret` is thread 0; the others sit in
 * `work`. Waiting spins for a bounded number of rounds (a barrier inside a program is usually a matter of microseconds)
 * and then sleeps in the operating system, so idle threads cost nothing.
 */
import { int, setCommand, threadCount, threadIndex } from "./command";
import { gemmCommand } from "./gemm";
import { attentionCommand, nativeAttentionCommand } from "./attention-command";
import { convolutionCommand } from "./convolution";
import { gatedDeltaCommand } from "./gated-delta";
import { elementwiseCommand } from "./elementwise";
import { expertCommand, hasTokens } from "./experts";
import { expertPartCommand } from "./expert-parts";
import { clampedCommand } from "./experts-clamped";
import { activationCommand } from "./activation";
import { layerNormCommand } from "./layer-norm";
import { normCommand } from "./norm";
import { ropeCommand } from "./rope";
import { embeddingCommand } from "./embedding";
import { reduceCommand } from "./reduce";
import { crossEntropyCommand } from "./cross-entropy";
import { dropoutCommand } from "./dropout";
import { optimizerCommand } from "./optimizer";
import { nativeHeadCommand } from "./head-native";
import { quantisedCommand } from "./quantise";
import { magnitudeCommand } from "./magnitude";
import { scaleRowsCommand } from "./scale-rows";
import { Opcode } from "./opcodes";

// Offsets in the control block; what different threads write is on different cache lines.
const EPOCH = 0; // counts programs; workers sleep on it
const COMMANDS = 4; // the program in effect: commands [COMMANDS, END), table of bindings
const END = 8;
const TABLE = 12;
const STOPPED = 16; // 1: workers leave
const FAILED = 20; // 1: a thread trapped; everybody leaves
const ARRIVED = 64; // barrier: threads that have arrived
const PHASE = 128; // barrier: counts completed barriers; threads sleep on it
const SLEEPERS = 192; // threads that sleep, on either word
export const CONTROL_BYTES: i32 = 256;

let control: usize = 0;
let current: usize = 0;
/** Rounds of spinning before a thread sleeps. */
let spinRounds: i32 = 0;

export function setSpin(rounds: i32): void {
  spinRounds = rounds;
}

/** Returns once the word is no longer `old`. */
function awaitChange(word: usize, old: i32): void {
  for (let round = 0; round < spinRounds; round++) {
    if (atomic.load<i32>(word) != old) return;
  }
  // Announced before the word is compared again: whoever changes it afterwards sees a sleeper and wakes it.
  atomic.add<i32>(control + SLEEPERS, 1);
  while (atomic.load<i32>(word) == old) atomic.wait<i32>(word, old, -1);
  atomic.sub<i32>(control + SLEEPERS, 1);
}

function advance(word: usize): void {
  atomic.add<i32>(word, 1);
  if (atomic.load<i32>(control + SLEEPERS) != 0) atomic.notify(word, -1);
}

function barrier(): void {
  if (threadCount == 1) return;
  const phase = atomic.load<i32>(control + PHASE);
  // After the phase: a thread that fails later than this advances it.
  if (atomic.load<i32>(control, FAILED)) return;
  if (atomic.add<i32>(control + ARRIVED, 1) == threadCount - 1) {
    atomic.store<i32>(control + ARRIVED, 0);
    advance(control + PHASE);
  } else {
    awaitChange(control + PHASE, phase);
  }
}

function mixtureCommand(opcode: i32): void {
  if (opcode == Opcode.Rope) ropeCommand(opcode);
  else if (opcode < Opcode.TakeExpert) clampedCommand(opcode);
  else if (opcode < Opcode.RouteTokens) expertPartCommand(opcode);
  else expertCommand(opcode);
}

function dispatch(opcode: i32): void {
  switch (opcode >> 4) {
    case 0x0: gemmCommand(opcode); break;
    case 0x1: attentionCommand(opcode); break;
    case 0x2: elementwiseCommand(opcode); break;
    case 0x3: activationCommand(opcode); break;
    case 0x4: if (opcode < Opcode.LayerNorm) normCommand(opcode); else layerNormCommand(opcode); break;
    case 0x5: mixtureCommand(opcode); break;
    case 0x6: embeddingCommand(opcode); break;
    case 0x7: reduceCommand(opcode); break;
    case 0x8: crossEntropyCommand(opcode); break;
    case 0x9: dropoutCommand(opcode); break;
    case 0xa: optimizerCommand(opcode); break;
    case 0xb: nativeAttentionCommand(opcode); break;
    case 0xc: nativeHeadCommand(opcode); break;
    case 0xd: quantisedCommand(opcode); break;
    case 0xe: if (opcode < Opcode.ScaleRows) magnitudeCommand(opcode); else scaleRowsCommand(opcode); break;
    case 0xf: if (opcode < Opcode.GatedDelta) convolutionCommand(opcode); else gatedDeltaCommand(opcode); break;
    default: unreachable();
  }
}

/** Address behind a command. */
// @ts-ignore: decorator
@inline
function behind(command: usize): usize {
  return command + ((<usize>load<i32>(command, 4)) << 2);
}

function runCommands(): void {
  const end = load<u32>(control, END);
  const table = load<u32>(control, TABLE);
  let at: usize = load<u32>(control, COMMANDS);
  while (at < end) {
    current = at;
    // Read before the barrier: behind the last one, thread 0 may already be writing the next program.
    let next = behind(at);
    setCommand(at, table);
    if (load<i32>(at) == Opcode.SkipExpert) {
      const isSkipped = !hasTokens();
      if (isSkipped) for (let left = int(1); left > 0 && next < end; left--) next = behind(next);
      // What follows writes nothing that this has read, until it is another operator's.
      if (next < end && (!isSkipped || load<i32>(next) == Opcode.SkipExpert)) {
        at = next;
        continue;
      }
    } else {
      dispatch(load<i32>(at));
    }
    barrier();
    if (atomic.load<i32>(control, FAILED)) return;
    at = next;
  }
}

/** Thread 0 runs a program to its end. Returns 0, or 1 if another thread trapped. */
export function interpret(block: usize, commands: usize, end: usize, table: usize): i32 {
  control = block;
  // A program without commands has no barrier that would keep the threads together.
  if (commands == end) return 0;
  store<u32>(control, <u32>commands, COMMANDS);
  store<u32>(control, <u32>end, END);
  store<u32>(control, <u32>table, TABLE);
  if (threadCount > 1) advance(control + EPOCH);
  runCommands();
  return atomic.load<i32>(control, FAILED);
}

/** The life of any other thread: returns after `stop`, or when a thread has trapped. */
export function work(block: usize): void {
  control = block;
  let epoch: i32 = 0;
  while (true) {
    awaitChange(control + EPOCH, epoch);
    epoch++;
    if (atomic.load<i32>(control, STOPPED)) return;
    runCommands();
    if (atomic.load<i32>(control, FAILED)) return;
  }
}

/** Thread 0 sends the others home. */
export function stop(block: usize): void {
  control = block;
  atomic.store<i32>(control, 1, STOPPED);
  advance(control + EPOCH);
}

/** A thread that trapped frees the others from the barrier. */
export function fail(): void {
  atomic.store<i32>(control, 1, FAILED);
  advance(control + EPOCH);
  advance(control + PHASE);
}

/** Address of the command that this thread ran last. */
export function currentCommand(): usize {
  return current;
}
