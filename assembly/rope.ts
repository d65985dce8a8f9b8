export function ropeCommand(_opcode: u32): void {
  unreachable();
}
