export function attentionCommand(_opcode: u32): void {
  unreachable();
}
