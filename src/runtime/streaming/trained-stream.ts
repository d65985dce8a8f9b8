import type { Address } from "../executor.ts";
import { OUTSIDE, type OutsideMemory } from "./outside.ts";
import type { WeightStream } from "./weight-window.ts";

/**
 * A stream of trained parameters, which lie outside, and of frozen ones, which another stream reads.
 * @param places where trained parameters lie
 * @param frozen null: there are none
 */
export function trainedStream(
  outside: OutsideMemory,
  places: ReadonlyMap<string, Address>,
  frozen: WeightStream | null,
): WeightStream {
  // A ticket is twice that of the one who reads, plus 1 for the other stream.
  return {
    fetch(param, offset, bytes, address) {
      const place = places.get(param);
      if (place === undefined) return 2 * frozen!.fetch(param, offset, bytes, address) + 1;
      return 2 * outside.fetch(place - OUTSIDE + offset, bytes, address);
    },
    read(param, offset, target) {
      const place = places.get(param);
      if (place === undefined) frozen!.read(param, offset, target);
      else outside.read(place - OUTSIDE + offset, target);
    },
    wait(ticket) {
      if (ticket % 2 === 1) frozen!.wait((ticket - 1) / 2);
      else outside.waitFetched(ticket / 2);
    },
    check: () => frozen?.check(),
    get counts() {
      const other = frozen?.counts ?? { bytes: 0, waited: 0, busy: 0 };
      const { in: bytes, waited, busyIn } = outside.counts;
      return { bytes: other.bytes + bytes, waited: other.waited + waited, busy: other.busy + busyIn };
    },
    close() {
      frozen?.close();
      outside.close();
    },
  };
}
