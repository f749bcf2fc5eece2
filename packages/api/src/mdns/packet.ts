/** Which packets are multicast DNS, and what dns-packet leaves open about them (RFC 6762). Pure. */
import { type DecodedPacket, decode } from "dns-packet";

export const mdnsPort = 5353;
/** What a packet may have (section 17); in bytes. */
const largestBytes = 9_000;
/** Opcode and response code, in the second word of the header: only zero is multicast DNS (sections 18.3 and 18.11). */
const codeBits = 0x780f;

/**
 * What came from a port of somebody on the link; undefined when it is nothing to look at. A response from another port than
 * that of multicast DNS was sent by a program that may do no more than ask (section 6): it could take our names from us.
 */
export function readPacket(bytes: Buffer, port: number): DecodedPacket | undefined {
  if (bytes.length > largestBytes) return undefined;
  try {
    const packet = decode(bytes);
    if ((bytes.readUInt16BE(2) & codeBits) !== 0) return undefined;
    return packet.type === "response" && port !== mdnsPort ? undefined : packet;
  } catch {
    // Anybody may send anything.
    return undefined;
  }
}

interface Classed {
  readonly class?: string | undefined;
}

/** The classes of a question that would rather be answered to its sender alone, as dns-packet gives them (bit 15 and IN or ANY). */
const unicastClasses: readonly unknown[] = ["UNKNOWN_32769", "UNKNOWN_33023"];

export function wantsUnicast(question: Classed): boolean {
  return unicastClasses.includes(question.class);
}

/** Whether a question is for records of the Internet: there are no others here. */
export function isOfInternet(question: Classed): boolean {
  return question.class === "IN" || question.class === "ANY" || wantsUnicast(question);
}
