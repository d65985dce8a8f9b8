export function gemmCommand(_opcode: u32): void {
  unreachable();
}
