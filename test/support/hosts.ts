/**
 * Hosts on one machine: network namespaces, each with a link of its own to the machine, so that links can be cut as cables are. They need root, and a kernel
 * that lets it make them.
 */

/** A host without a network but its link. */
export interface Host {
  /** The words before a command that runs there. */
  readonly command: readonly string[];
  cut(): void;
  mend(): void;
  close(): void;
}

export interface Hosts {
  /** The address under which hosts reach this machine. */
  readonly address: string;
  add(): Host;
}

const IP = Bun.which("ip", { PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin` });

function ip(...args: readonly string[]): void {
  const { success, stderr } = Bun.spawnSync([IP!, ...args], { stdout: "ignore", stderr: "pipe" });
  if (!success) throw new Error(`ip ${args.join(" ")}: ${stderr.toString().trim()}`);
}

/** Makes addresses of a range that no public network has (RFC 6598): 100.64.0.0/10. */
function addressAt(index: number): string {
  const bits = (100 * 2 ** 24 + 64 * 2 ** 16 + index) >>> 0;
  return [24, 16, 8, 0].map((shift) => (bits >>> shift) & 255).join(".");
}

/** Hosts that one machine may have. */
const MOST = 256;

export function openHosts(): Hosts {
  // Another process may have some at the same time.
  const [drawn] = crypto.getRandomValues(new Uint32Array(1));
  const first = (drawn! % 2 ** 14) * MOST;
  const id = drawn!.toString(36);
  const address = addressAt(first + 1);
  let count = 0;
  return {
    address,
    add() {
      const i = ++count;
      const own = addressAt(first + 1 + i);
      const name = `remat-${id}-${i}`;
      const [here, there] = [`${id}-${i}`, "wire"];
      ip("netns", "add", name);
      const close = () => ip("netns", "del", name);
      try {
        ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", name);
        ip("address", "add", address, "peer", `${own}/32`, "dev", here);
        ip("link", "set", here, "up");
        ip("-n", name, "address", "add", own, "peer", `${address}/32`, "dev", there);
        ip("-n", name, "link", "set", there, "up");
      } catch (error) {
        close();
        throw error;
      }
      return {
        command: [IP!, "netns", "exec", name],
        cut: () => ip("-n", name, "link", "set", there, "down"),
        mend: () => ip("-n", name, "link", "set", there, "up"),
        close,
      };
    },
  };
}

/** Shows whether hosts can be made here; where not, tests of them are passed over, and say so. */
export const CAN_HAVE_HOSTS: boolean = (() => {
  if (process.platform !== "linux" || IP === null || process.getuid?.() !== 0) return false;
  try {
    const host = openHosts().add();
    host.close();
    return true;
  } catch (error) {
    process.stderr.write(`no network namespaces (${String(error)}): tests of links that are cut are passed over\n`);
    return false;
  }
})();
