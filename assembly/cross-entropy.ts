export function crossEntropyCommand(_opcode: u32): void {
  unreachable();
}
