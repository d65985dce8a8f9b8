/** Something of an example that is not as its data say, and is meant to be so. */
export interface Notice {
  readonly kind: NoticeKind;
  /** `file:line`, and the message. */
  readonly where: string;
}

/** Things that happen to messages without being an error, by name, with the words behind their number. */
const NOTICES = {
  reasoning: "with reasoning that the chat template leaves out of what was said before",
  special: "with text that is a special token's, and is read as that token (--special-text escape keeps it text)",
} as const;

export type NoticeKind = keyof typeof NOTICES;

/** Notices of one kind. */
export interface NoticeCount {
  readonly kind: NoticeKind;
  readonly count: number;
  /** Place of the first. */
  readonly where: string;
}

export function createNotices(): { add(notice: Notice): void; take(): NoticeCount[] } {
  let counts = new Map<NoticeKind, NoticeCount>();
  return {
    add({ kind, where }) {
      const known = counts.get(kind);
      counts.set(kind, { kind, count: (known?.count ?? 0) + 1, where: known?.where ?? where });
    },
    take() {
      const taken = [...counts.values()];
      counts = new Map();
      return taken;
    },
  };
}

/** `3 messages with ... (the first: data.jsonl:7, message 2)` */
export function describeNotice({ kind, count, where }: NoticeCount): string {
  return `${count} ${count === 1 ? "message" : "messages"} ${NOTICES[kind]} (the first: ${where})`;
}
