/**
 * Multicast DNS on one link (RFC 6762): packets in and out, over IPv4 and IPv6 as the link has them. Nothing of what comes
 * in is believed here; it is only well-formed, of this link, and not more than can be looked at.
 */
import { createSocket, type Socket } from "node:dgram";
import { AUTHORITATIVE_ANSWER, type DecodedPacket, encode, type Packet } from "dns-packet";
import { type Link, neighbours } from "./links.ts";
import { mdnsPort, readPacket } from "./packet.ts";

const groups = { 4: "224.0.0.251", 6: "ff02::fb" } as const;
/** So many packets of a link are looked at in a second; a network that sends more takes no more of our time. */
const mostPerSecond = 400;

export interface Sender {
  readonly family: 4 | 6;
  readonly address: string;
  readonly port: number;
}

export interface LinkSocketEvents {
  readonly onPacket: (packet: DecodedPacket, from: Sender) => void;
  /** A socket failed, or a packet could be sent by none. Of a socket that failed nothing more comes: close it. */
  readonly onError: (error: Error) => void;
}

export class LinkSocket {
  readonly #events: LinkSocketEvents;
  readonly #isNeighbour: (address: string) => boolean;
  readonly #sockets = new Map<4 | 6, Socket>();
  #second = 0;
  #seen = 0;

  private constructor(link: Link, events: LinkSocketEvents) {
    this.#events = events;
    this.#isNeighbour = neighbours(link);
  }

  /** Joins the groups of the link. Throws what the system says, and has left nothing open then. */
  static async open(link: Link, events: LinkSocketEvents): Promise<LinkSocket> {
    const socket = new LinkSocket(link, events);
    try {
      for (const family of [4, 6] as const) {
        const first = link.addresses.find((address) => address.family === family);
        if (first !== undefined) await socket.#join(family, family === 4 ? first.address : `::%${link.name}`);
      }
      return socket;
    } catch (error) {
      socket.close();
      throw error;
    }
  }

  async #join(family: 4 | 6, multicastInterface: string): Promise<void> {
    // Others of this machine may speak multicast DNS too.
    const options = { reuseAddr: true } as const;
    const socket =
      family === 4
        ? createSocket({ type: "udp4", ...options })
        : createSocket({ type: "udp6", ipv6Only: true, ...options });
    this.#sockets.set(family, socket);
    await new Promise<void>((resolve, reject) => {
      socket.once("error", reject);
      socket.bind(mdnsPort, () => resolve());
    });
    socket.removeAllListeners("error");
    socket.on("error", (error) => this.#events.onError(error));
    socket.addMembership(groups[family], multicastInterface);
    socket.setMulticastInterface(multicastInterface);
    // Also what is sent to one machine alone (RFC 6762, section 11).
    socket.setTTL(255);
    socket.setMulticastTTL(255);
    // Another program of this machine may ask or answer; what is our own is known by its sender.
    socket.setMulticastLoopback(true);
    socket.on("message", (bytes, { address, port }) => this.#receive(bytes, { family, address, port }));
  }

  #receive(bytes: Buffer, from: Sender): void {
    if (!this.#isNeighbour(from.address)) return;
    const second = Math.floor(performance.now() / 1_000);
    if (second !== this.#second) [this.#second, this.#seen] = [second, 0];
    if (this.#seen++ >= mostPerSecond) return;
    const packet = readPacket(bytes, from.port);
    if (packet !== undefined) this.#events.onPacket(packet, from);
  }

  /** To all on the link. Resolves when the packet is on its way, or was not to be sent: that is told to `onError`. */
  async multicast(packet: Packet): Promise<void> {
    const bytes = encode(withFlags(packet));
    const errors = await Promise.all(
      [...this.#sockets].map(([family, socket]) => this.#send(socket, bytes, mdnsPort, groups[family])),
    );
    // One of two is enough: an IPv6 address that is new cannot be used for a second or two (duplicate address detection).
    const [first] = errors;
    if (first !== undefined && errors.every((error) => error !== undefined)) this.#events.onError(first);
  }

  /** To one that has asked. */
  async unicast(packet: Packet, to: Sender): Promise<void> {
    const socket = this.#sockets.get(to.family);
    if (socket === undefined) return;
    const error = await this.#send(socket, encode(withFlags(packet)), to.port, to.address);
    if (error !== undefined) this.#events.onError(error);
  }

  async #send(socket: Socket, bytes: Buffer, port: number, address: string): Promise<Error | undefined> {
    return await new Promise((resolve) => {
      try {
        socket.send(bytes, port, address, (error) => resolve(error ?? undefined));
      } catch {
        // It was closed in the meantime.
        resolve(undefined);
      }
    });
  }

  close(): void {
    for (const socket of this.#sockets.values()) {
      socket.removeAllListeners();
      socket.on("error", () => undefined);
      try {
        socket.close();
      } catch {
        // It has not been bound, or failed.
      }
    }
    this.#sockets.clear();
  }
}

function withFlags(packet: Packet): Packet {
  return packet.type === "response" ? { ...packet, flags: AUTHORITATIVE_ANSWER } : packet;
}
