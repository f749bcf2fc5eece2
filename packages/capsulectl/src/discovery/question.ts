/** The question for capsules, with all that is known of the answer (RFC 6762, sections 7.1 and 7.2). Pure. */
import { serviceType } from "@capsule/api/mdns/service.ts";
import { type Answer, encodingLength, type Packet, TRUNCATED_RESPONSE } from "dns-packet";

/** What goes through an Ethernet in one piece, without the headers of IPv6 and UDP; in bytes. */
const mostBytes = 1_440;

/**
 * As many packets as it takes. All but the last say that more of what is known is to come: who would answer waits for it. In
 * one packet, a hundred capsules would be more than anybody reads.
 */
export function questionPackets(known: readonly Answer[]): Packet[] {
  let answers: Answer[] = [];
  let packet: Packet = { type: "query", questions: [{ type: "PTR", name: serviceType, class: "IN" }], answers };
  const packets = [packet];
  for (const one of known) {
    if (answers.length > 0 && encodingLength({ ...packet, answers: [...answers, one] }) > mostBytes) {
      packet.flags = TRUNCATED_RESPONSE;
      answers = [];
      packet = { type: "query", answers };
      packets.push(packet);
    }
    answers.push(one);
  }
  return packets;
}
